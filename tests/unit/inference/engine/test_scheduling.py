"""What the generation scheduler chooses, case by case, driven without a thread or a clock."""

import pytest
from inference_svc.errors import DeadlineExpired, DeadlineInfeasible, NumericalFault
from inference_svc.requests import (
    Finished,
    FinishReason,
    OutputDetail,
    Priority,
    Tokens,
)
from support.echo import END, NAN
from support.outlets import generation
from support.scheduling import Harness, of


def test_a_long_prompt_does_not_stall_sequences_that_decode():
    house = Harness(budget=16)
    for key in (1, 2):
        house.submit(key, generation("short", count=100, seed=key))
    house.turn()
    house.submit(3, generation("x" * 300, count=2))
    house.turn(10)
    for step in house.steps[1:]:
        assert {(1, 1), (2, 1)} <= set(step)
        assert sum(count for _, count in step) == 16


def test_where_more_decode_than_a_step_may_hold_they_take_turns_and_prompts_still_come_in():
    house = Harness(slots=6, budget=4)
    works = {key: generation("a", count=40, seed=key) for key in range(5)}
    for key, work in works.items():
        house.submit(key, work)
    house.turn(12)
    house.submit(9, generation("x" * 20, count=2))
    house.turn(45)
    assert all(sum(count for _, count in step) <= 4 for step in house.steps)
    assert isinstance(house.end(9), Finished)
    lengths = [len(house.ids(key)) for key in works]
    assert max(lengths) - min(lengths) <= 3
    house.run(lambda: house.scheduler.is_idle)
    assert all(house.ids(key) == house.runner.expected(work, 40) for key, work in works.items())


def test_prompts_take_no_more_of_a_step_than_their_bound_while_others_decode():
    house = Harness(budget=64, prompt_bound=8)
    house.submit(1, generation("first", count=100))
    house.turn()
    house.submit(2, generation("x" * 100, count=2))
    house.turn(3)
    assert [dict(step)[2] for step in house.steps[1:]] == [8, 8, 8]


def test_a_short_prompt_does_not_wait_for_a_long_one_to_be_through():
    house = Harness(budget=32)
    house.submit(1, generation("x" * 400, count=2))
    house.turn(2)
    house.submit(2, generation("short", count=2))
    house.turn()
    assert len(house.ids(2)) == 1
    assert not house.ids(1)


def test_higher_priorities_get_the_free_slot_and_within_one_the_earliest_deadline():
    house = Harness(slots=1)
    house.submit(9, generation("busy", count=1))
    house.turn()
    house.submit(1, generation("a", count=1, context=of(Priority.BATCH, deadline=50.0)))
    house.submit(2, generation("a", count=1, context=of(deadline=90.0)))
    house.submit(3, generation("a", count=1, context=of(deadline=80.0)))
    house.submit(4, generation("a", count=1))
    house.submit(5, generation("a", count=1, context=of(Priority.INTERACTIVE)))
    house.run(lambda: house.scheduler.is_idle)
    assert [step[0][0] for step in house.steps] == [9, 5, 3, 2, 4, 1]


def test_a_higher_priority_takes_the_slot_of_a_lower_one_which_is_computed_again_and_loses_nothing():
    house = Harness(slots=1)
    low = generation("low", count=12, context=of(Priority.BATCH))
    house.submit(1, low)
    house.turn(5)
    house.submit(2, generation("high", count=3, context=of(Priority.INTERACTIVE)))
    house.turn(3)
    assert isinstance(house.end(2), Finished)
    assert len(house.ids(1)) == 5
    house.run(lambda: house.scheduler.is_idle)
    assert house.ids(1) == house.runner.expected(low, 12)
    assert house.runner.opened == 3


@pytest.mark.parametrize("priority", Priority)
def test_nobody_starves_under_an_endless_stream_of_what_goes_before_him(priority):
    house = Harness(slots=2, budget=8, aging=20)
    house.submit(1, generation("x" * 30, count=6, context=of(priority)))
    fresh = iter(range(2, 10_000))

    def crowd() -> None:
        while sum(house.scheduler.facts().waiting.sequences) < 4:
            key = next(fresh)
            context = of(Priority.INTERACTIVE, deadline=house.now + 1000)
            house.submit(key, generation("y" * (key % 9 + 1), count=3, seed=key, context=context))

    for _ in range(250):
        house.turn(before=crowd)
    assert isinstance(house.end(1), Finished)


def test_tenants_share_by_weight_whatever_each_one_asks_for():
    house = Harness(slots=4, budget=16, weights={"big": 3.0})
    for key in range(400):
        tenant = "big" if key % 2 else "small"
        count = 10 if tenant == "big" else 5  # the smaller share asks in smaller pieces
        house.submit(key, generation("ab", count=count, seed=key, context=of(tenant=tenant)))
    house.turn(200)
    computed = {"big": 0, "small": 0}
    for step in house.steps:
        for key, tokens in step:
            computed["big" if key % 2 else "small"] += tokens
    assert 2.5 < computed["big"] / computed["small"] < 3.5


def test_a_tenant_that_comes_late_is_not_made_to_wait_for_a_crowd():
    house = Harness(slots=2, budget=16)
    for key in range(100):
        house.submit(key, generation("ab", count=4, seed=key, context=of(tenant="crowd")))
    house.turn(10)
    house.submit(1000, generation("ab", count=4, context=of(tenant="late")))
    assert house.run(lambda: house.end(1000) is not None) < 12


def test_a_sequence_without_credits_keeps_its_slot_while_there_is_room():
    house = Harness(slots=2)
    work = generation("a", count=10, credits=2)
    house.submit(1, work)
    house.run(lambda: not house.scheduler.has_work)
    assert len(house.ids(1)) == 2
    house.submit(2, generation("b", count=3))
    house.run(lambda: not house.scheduler.has_work)
    house.scheduler.grant(1, 100)
    house.run(lambda: house.scheduler.is_idle)
    assert house.ids(1) == house.runner.expected(work, 10)
    assert house.runner.opened == 2


def test_a_sequence_without_credits_gives_its_slot_to_whoever_needs_it_and_comes_back():
    house = Harness(slots=1)
    work = generation("a", count=10, credits=2)
    house.submit(1, work)
    house.run(lambda: not house.scheduler.has_work)
    house.submit(2, generation("b", count=3))
    house.run(lambda: not house.scheduler.has_work)
    assert isinstance(house.end(2), Finished)
    facts = house.scheduler.facts()
    assert (facts.running, sum(facts.waiting.sequences), sum(facts.stalled.sequences)) == (0, 1, 1)
    assert facts.stalled.tokens == facts.waiting.tokens
    house.scheduler.grant(1, 100)
    facts = house.scheduler.facts()
    assert (sum(facts.waiting.sequences), sum(facts.stalled.sequences), sum(facts.stalled.tokens)) == (1, 0, 0)
    house.run(lambda: house.scheduler.is_idle)
    assert house.ids(1) == house.runner.expected(work, 10)
    assert house.runner.opened == 3


def test_a_sequence_that_never_had_credits_computes_nothing():
    house = Harness()
    house.submit(1, generation("a", credits=0))
    house.turn()
    assert not house.steps
    house.scheduler.grant(1, 1)
    house.turn(3)
    assert len(house.ids(1)) == 1


def test_when_the_cache_is_full_the_last_to_come_is_put_off_and_all_answers_stay_the_same():
    house = Harness(slots=4, context=60, cache=100)
    works = {key: generation("abcde", count=50, seed=key) for key in (1, 2, 3, 4)}
    for key, work in works.items():
        house.submit(key, work)
    house.run(lambda: house.scheduler.is_idle)
    assert all(house.ids(key) == house.runner.expected(work, 50) for key, work in works.items())
    assert house.runner.opened > 4


def test_what_expires_while_it_waits_is_never_computed_and_what_expires_later_is_stopped():
    house = Harness(slots=1)
    house.submit(1, generation("a", count=100, context=of(deadline=10.0)))
    house.turn()
    house.submit(2, generation("b", count=5, context=of(first_token_deadline=5.0)))
    house.turn(2)
    house.now = 6.0
    house.turn()
    assert isinstance(house.error(2), DeadlineExpired)
    house.now = 11.0
    house.turn()
    assert isinstance(house.error(1), DeadlineExpired)
    assert len(house.ids(1)) == 4
    assert house.scheduler.is_idle
    assert all(key == 1 for step in house.steps for key, _ in step)


def test_a_first_token_deadline_that_was_met_no_longer_counts():
    house = Harness()
    house.submit(1, generation("a", count=10, context=of(first_token_deadline=5.0)))
    house.turn()
    house.now = 6.0
    house.run(lambda: house.scheduler.is_idle)
    assert isinstance(house.end(1), Finished)


def test_a_prompt_that_cannot_be_computed_in_time_is_not_begun():
    house = Harness(slots=2)
    house.costs.stepped(32, step_seconds=0.32, turn_seconds=0.32)
    house.submit(1, generation("a", count=100))
    house.turn()
    house.submit(2, generation("x" * 200, count=1, context=of(first_token_deadline=1.5)))
    house.submit(3, generation("x" * 100, count=1, context=of(first_token_deadline=1.5)))
    house.turn(10)
    assert isinstance(house.error(2), DeadlineInfeasible)
    assert isinstance(house.end(3), Finished)


def test_a_result_that_is_not_finite_fails_its_sequence_alone():
    house = Harness()
    house.submit(1, generation([NAN, 98], count=3))
    house.submit(2, generation("ok", count=3))
    house.run(lambda: house.scheduler.is_idle)
    assert isinstance(house.error(1), NumericalFault)
    assert house.ids(1) == []
    assert isinstance(house.end(2), Finished)


def test_an_end_token_among_the_least_tokens_does_not_end_the_answer():
    house = Harness()
    full = house.runner.expected(generation("q", count=30), 30)
    ends = [full[0], full[3]]
    house.submit(1, generation("q", count=30, ends=ends, least=5))
    house.run(lambda: house.scheduler.is_idle)
    first = next(index for index, token in enumerate(full) if index >= 5 and token in ends)
    assert house.ids(1) == full[: first + 1]
    end = house.end(1)
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("resumed", "more", "reason"),
    [
        ("abc", {"count": 3}, FinishReason.LENGTH),
        ("abc", {"count": 9, "stops": ["bc"]}, FinishReason.STOP_STRING),
        ([97, END], {"count": 9, "ends": [END]}, FinishReason.STOP),
    ],
)
def test_resumed_ids_that_are_a_whole_answer_end_at_once(resumed, more, reason):
    house = Harness()
    ids = resumed.encode() if isinstance(resumed, str) else resumed
    house.submit(1, generation("p", resumed=ids, **more))
    end = house.end(1)
    assert isinstance(end, Finished)
    assert end.reason is reason
    assert end.usage.output_token_count == 0
    assert house.scheduler.is_idle


def test_a_prefix_that_the_slot_holds_already_is_not_computed_and_is_told_in_the_usage():
    house = Harness()
    house.runner._share_prefixes = True
    first, second = generation("a shared beginning, one", count=4), generation("a shared beginning, two", count=4)
    house.submit(1, first)
    house.run(lambda: house.scheduler.is_idle)
    house.runner._seen.add(tuple(b"a shared beginning, "))
    house.submit(2, second)
    house.run(lambda: house.scheduler.is_idle)
    assert house.ids(2) == house.runner.expected(second, 4)
    end = house.end(2)
    assert isinstance(end, Finished)
    assert end.usage.cached_token_count == 20


def test_prompt_logprobs_are_told_once_even_when_the_sequence_is_computed_again():
    house = Harness(slots=1)
    house.submit(1, generation("low", count=6, credits=2, detail=OutputDetail(prompt_logprobs=True)))
    house.run(lambda: not house.scheduler.has_work)
    house.submit(2, generation("needs the slot", count=1))
    house.turn()
    house.scheduler.grant(1, 9)
    house.run(lambda: house.scheduler.is_idle)
    assert house.runner.opened == 3
    told = [event.prompt_logprobs for event in house.events[1] if isinstance(event, Tokens)]
    assert [len(each) for each in told] == [2, 0, 0, 0, 0, 0]


def test_timings_tell_queue_prefill_and_decode():
    house = Harness(slots=1, budget=4)
    house.submit(1, generation("abcdefgh", count=3))
    house.now = 2.0
    house.turn()
    house.now = 3.0
    house.turn()
    house.now = 7.0
    house.turn(2)
    end = house.end(1)
    assert isinstance(end, Finished)
    assert (end.timings.queue, end.timings.prefill, end.timings.decode) == (2.0, 1.0, 4.0)
