"""Who is let in to wait, and what he is told who is not."""

import pytest
from inference_svc.engine.costs import StepCosts
from inference_svc.engine.door import Bounds, Door, Facts, Need
from inference_svc.engine.waiting_count import Waiting
from inference_svc.errors import CacheTooSmall, DeadlineExpired, DeadlineInfeasible, QueueFull
from inference_svc.requests import Context, Priority
from support.outlets import encoding, generation

NOBODY = Waiting()


def door(bounds=Bounds(4, 100), costs=None, slots=2, running=0, backlog=0, most=1000) -> Door:  # noqa: B008
    yielding = (slots - running,) * 3
    return Door(bounds, costs or StepCosts(512), Facts(NOBODY, running, backlog, slots, yielding), most)


def costs(per_token=0.01, per_step=0.1, in_slot=2.0) -> StepCosts:
    known = StepCosts(512)
    known.stepped(prompt_tokens=0, step_seconds=per_step, turn_seconds=per_step)
    for tokens in (10**6, 10**7):  # so far apart that it is sure what a token costs
        known.stepped(tokens, step_seconds=per_token * tokens, turn_seconds=per_token * tokens)
    known.left_slot(in_slot, tokens=20)
    return known


def test_a_full_room_refuses_and_says_when_to_come_again():
    room = door()
    for _ in range(6):  # two slots and four that wait
        room.enter(Need(1, 5), Context(), 0.0)
    with pytest.raises(QueueFull) as refused:
        room.enter(Need(1, 5), Context(), 0.0)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after > 0


def test_how_fast_slots_are_taken_does_not_change_who_is_refused():
    room = door()
    for _ in range(2):
        room.enter(Need(1, 5), Context(), 0.0)
    room.handed_over()
    room.learn(Facts(NOBODY, running=2, slots=2, yielding=(0, 0, 0)))
    for _ in range(4):
        room.enter(Need(1, 5), Context(), 0.0)
    with pytest.raises(QueueFull):
        room.enter(Need(1, 5), Context(), 0.0)


def test_tokens_that_wait_are_bounded_too():
    room = door()
    room.enter(Need(1, 90), Context(), 0.0)
    with pytest.raises(QueueFull):
        room.enter(Need(1, 11), Context(), 0.0)
    room.enter(Need(1, 10), Context(), 0.0)


def test_a_request_over_the_bounds_by_itself_is_taken_when_nothing_waits():
    room = door()
    room.enter(Need(50, 5000), Context(), 0.0)
    with pytest.raises(QueueFull):
        room.enter(Need(1, 1), Context(), 0.0)


def test_what_came_since_the_step_began_is_not_forgotten_when_its_facts_come():
    room = Door(Bounds(1, 100), StepCosts(512), Facts(NOBODY))
    room.enter(Need(1, 5), Context(), 0.0)
    room.handed_over()
    room.learn(Facts(NOBODY))
    room.enter(Need(1, 5), Context(), 0.0)
    room.learn(Facts(NOBODY))
    with pytest.raises(QueueFull):
        room.enter(Need(1, 5), Context(), 0.0)


def test_a_sequence_that_could_never_fit_the_cache_is_refused():
    with pytest.raises(CacheTooSmall):
        door(most=99).enter(Need.of(generation("x" * 50, count=50)), Context(), 0.0)


def test_a_deadline_that_has_passed_is_told_so():
    with pytest.raises(DeadlineExpired):
        door().enter(Need(1, 5), Context(first_token_deadline=1.0), 1.0)


def test_a_deadline_that_measured_costs_cannot_meet_is_refused_with_by_how_much():
    room = door(bounds=Bounds(9, 999), costs=costs(in_slot=0.0), running=1, backlog=100)
    room.enter(Need(1, 100), Context(first_token_deadline=2.1), 0.0)
    with pytest.raises(DeadlineInfeasible) as refused:
        room.enter(Need(1, 100), Context(first_token_deadline=2.1), 0.0)
    assert refused.value.retry_after == pytest.approx(0.9, rel=1e-3)


def test_the_least_number_of_tokens_counts_against_the_whole_deadline():
    room = door(costs=costs(per_step=0.1), running=1)
    room.enter(Need.of(generation("abc", count=90, least=10)), Context(deadline=2.0), 0.0)
    with pytest.raises(DeadlineInfeasible):
        room.enter(Need.of(generation("abc", count=90, least=40)), Context(deadline=2.0), 0.0)


def test_how_long_answers_usually_take_counts_against_the_whole_deadline():
    room = door(costs=costs(per_token=0.0, in_slot=2.0), running=1)
    room.enter(Need.of(generation("abc", count=100)), Context(deadline=2.1), 0.0)
    with pytest.raises(DeadlineInfeasible) as refused:
        room.enter(Need.of(generation("abc", count=100)), Context(deadline=1.9), 0.0)
    # The first one waits for a slot, which is worth 1 s, and predictions may fall short by a quarter.
    assert refused.value.retry_after == pytest.approx(1.25 * (1.0 + 2.0) - 1.9, rel=1e-3)
    room.enter(Need.of(generation("abc", count=5)), Context(deadline=1.9), 0.0)  # it can be no longer than 0.5 s


def test_an_idle_device_refuses_nothing_on_a_guess():
    door(costs=costs(per_token=1.0)).enter(Need(1, 100), Context(first_token_deadline=0.5), 0.0)


def test_only_what_goes_before_counts_in_the_predicted_wait():
    room = door(bounds=Bounds(99, 9999), costs=costs(in_slot=0.0))
    room.enter(Need(1, 100), Context(priority=Priority.BATCH), 0.0)
    room.enter(Need(1, 10), Context(priority=Priority.INTERACTIVE), 0.0)
    assert room.predicted_wait(Priority.INTERACTIVE, 0.0) == pytest.approx(0.1, rel=1e-3)
    assert room.predicted_wait(Priority.BATCH, 0.0) == pytest.approx(1.1, rel=1e-3)


def test_slots_that_are_taken_make_the_wait_longer():
    room = door(bounds=Bounds(99, 9999), costs=costs(per_token=0.0, in_slot=2.0), running=2)
    assert room.predicted_wait(Priority.NORMAL, 0.0) == pytest.approx(1.0)
    room.enter(Need(1, 1), Context(), 0.0)
    assert room.predicted_wait(Priority.NORMAL, 0.0) == pytest.approx(2.0)


def test_who_waits_for_a_reader_is_not_before_anybody():
    stalled = Waiting(sequences=(0, 16, 0), tokens=(0, 40_000, 0))
    facts = Facts(stalled, running=2, slots=2, yielding=(2, 2, 2), stalled=stalled)
    room, full = Door(Bounds(99, 99_999), costs(), facts), Door(Bounds(15, 99_999), costs(), facts)
    room.learn(facts)
    assert room.predicted_wait(Priority.NORMAL, 0.0) == 0.0
    room.enter(Need(1, 10), Context(deadline=5.0), 0.0)
    assert room.predicted_wait(Priority.NORMAL, 0.0) == pytest.approx(0.1, rel=1e-3)
    full.learn(facts)
    with pytest.raises(QueueFull):  # they are held all the same
        full.enter(Need(1, 10), Context(), 0.0)


def test_every_input_of_an_encoding_is_a_sequence():
    assert Need.of(encoding("ab", "cde")) == Need(2, 5)
