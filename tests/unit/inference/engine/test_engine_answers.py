"""The engine end to end: real thread, echo models, an outlet that remembers."""

import time

import numpy as np
import pytest
from inference_svc.errors import (
    CacheTooSmall,
    Cancelled,
    DeadlineExpired,
    DuplicateRequest,
    ModelNotFound,
    TaskNotSupported,
)
from inference_svc.requests import Context, Finished, FinishReason, OutputDetail, Task, Tokens, Vectors
from support.echo import END, EchoEncoder, EchoRunner, Gate, echo_model
from support.engines import running
from support.outlets import RecordingOutlet, encoding, generation


def test_a_generation_streams_its_tokens_and_then_its_end():
    runner, outlet = EchoRunner(), RecordingOutlet()
    with running(echo_model(runner=runner)) as engine:
        work = generation("hello", count=12)
        engine.submit(outlet, 1, work)
        finished = outlet.finished(1)
    assert outlet.ids(1) == runner.expected(work, 12)
    assert outlet.text(1) == bytes(outlet.ids(1)).decode()
    assert finished.reason is FinishReason.LENGTH
    assert finished.usage.input_token_count == 5
    assert finished.usage.output_token_count == 12
    assert isinstance(outlet.events[1][-1], Finished)


def test_sequences_that_join_and_leave_get_the_tokens_that_they_get_alone():
    runner, outlet = EchoRunner(slot_count=4), RecordingOutlet()
    works = {n: generation("prompt " * n, count=3 + 5 * n % 17, seed=n) for n in range(1, 30)}
    with running(echo_model(runner=runner, step_token_budget=24)) as engine:
        for n, work in works.items():
            engine.submit(outlet, n, work)
        outlet.wait_for_end(*works)
    for n, work in works.items():
        assert outlet.ids(n) == runner.expected(work, work.max_output_tokens)
    assert max(runner.step_sizes) <= 24
    assert runner.most_slots == 4


def test_a_long_prompt_takes_half_of_a_step_beside_a_running_answer():
    gate = Gate(shut=True)
    runner, outlet = EchoRunner(gate=gate), RecordingOutlet()
    with running(echo_model(runner=runner, step_token_budget=64)) as engine:
        engine.submit(outlet, 1, generation("short", count=100))
        gate.allow(1)
        gate.wait_until_blocked()
        engine.submit(outlet, 2, generation("long " * 40, count=1))
        gate.open()
        outlet.wait_for_end(1, 2)
    assert max(runner.step_sizes) == 1 + 32


def test_a_resumed_generation_goes_on_where_the_first_one_stood_with_no_text_twice():
    runner, outlet = EchoRunner(alphabet="aé€😀 "), RecordingOutlet()
    whole = generation("story", count=20, seed=7)
    with running(echo_model(runner=runner)) as engine:
        engine.submit(outlet, 100, whole)
        outlet.wait_for_end(100)
        ids, pieces = outlet.ids(100), [e.text for e in outlet.events[100] if isinstance(e, Tokens)]
        for cut in range(21):
            engine.submit(outlet, cut, generation("story", count=20, seed=7, resumed=ids[:cut]))
        outlet.wait_for_end(*range(21))
    for cut in range(21):
        assert outlet.ids(cut) == ids[cut:]
        assert "".join(pieces[:cut]) + outlet.text(cut) == outlet.text(100)
        assert outlet.finished(cut).reason is FinishReason.LENGTH
        assert outlet.finished(cut).usage.output_token_count == 20 - cut


def test_an_answer_ends_at_the_end_token_which_shows_no_text():
    runner, outlet = EchoRunner(end_one_in=6), RecordingOutlet()
    with running(echo_model(runner=runner)) as engine:
        engine.submit(outlet, 1, generation("x", count=400, ends=[END]))
        assert outlet.finished(1).reason is FinishReason.STOP
    assert outlet.ids(1)[-1] == END
    assert outlet.text(1) == bytes(outlet.ids(1)[:-1]).decode()


def test_an_answer_is_cut_before_its_stop_string():
    runner, outlet = EchoRunner(), RecordingOutlet()
    work = generation("x", count=60)
    full = bytes(runner.expected(work, 60)).decode()
    stop = full[20:23]
    with running(echo_model(runner=runner)) as engine:
        engine.submit(outlet, 1, generation("x", count=60, stops=[stop, "QQ"]))
        finished = outlet.finished(1)
    assert finished.reason is FinishReason.STOP_STRING
    assert finished.stop_string == stop
    assert outlet.text(1) == full[: full.index(stop)]


def test_logprobs_come_with_tokens_when_asked_for():
    outlet = RecordingOutlet()
    with running(echo_model()) as engine:
        detail = OutputDetail(logprobs=True, top_logprob_count=2, prompt_logprobs=True)
        engine.submit(outlet, 1, generation("abc", count=3, detail=detail))
        outlet.wait_for_end(1)
    tokens = [event for event in outlet.events[1] if isinstance(event, Tokens)]
    assert [len(each.logprobs) for each in tokens] == [1, 1, 1]
    assert [each.chosen.text for each in tokens[0].prompt_logprobs] == ["b", "c"]
    assert all(not each.prompt_logprobs for each in tokens[1:])
    assert len(tokens[0].logprobs[0].top) == 2


def test_embeddings_of_many_requests_come_back_to_their_own():
    encoder, outlet = EchoEncoder(), RecordingOutlet()
    with running(echo_model("embed", Task.EMBED, runner=encoder)) as engine:
        for n in range(20):
            engine.submit(outlet, n, encoding(*(f"text {n} {k}" for k in range(n % 5 + 1))))
        outlet.wait_for_end(*range(20))
    for n in range(20):
        vectors = [v for event in outlet.events[n] if isinstance(event, Vectors) for v in event.vectors]
        assert sorted(v.index for v in vectors) == list(range(n % 5 + 1))
        for v in vectors:
            np.testing.assert_array_equal(v.values, encoder.expected(list(f"text {n} {v.index}".encode())))


def test_a_step_is_told_in_one_delivery_an_outlet():
    gate = Gate(shut=True)
    runner, outlet, other = EchoRunner(gate=gate), RecordingOutlet(), RecordingOutlet()
    with running(echo_model(runner=runner)) as engine:
        engine.submit(outlet, 1, generation("a", count=4))
        gate.wait_until_blocked()
        for n in (2, 3, 4):
            engine.submit(outlet, n, generation("b", count=4))
        engine.submit(other, 1, generation("c", count=4))
        gate.open()
        outlet.wait_for_end(1, 2, 3, 4)
        other.wait_for_end(1)
    assert len(outlet.deliveries) == runner.step_count
    assert {len({n for n, _ in each}) for each in outlet.deliveries} >= {4}
    assert len(other.deliveries) == 4


def test_a_cancelled_request_is_told_so_and_its_slot_serves_the_next_step():
    gate = Gate(shut=True)
    runner, outlet = EchoRunner(slot_count=1, gate=gate), RecordingOutlet()
    with running(echo_model(runner=runner)) as engine:
        engine.submit(outlet, 1, generation("long", count=400))
        gate.allow(3)
        outlet.wait_for_tokens(1, 3)
        engine.submit(outlet, 2, generation("next", count=2))
        gate.wait_until_blocked()
        engine.cancel(outlet, 1)
        engine.cancel(outlet, 99)
        gate.allow(2)
        outlet.wait_for_tokens(2, 1)
        gate.open()
        assert isinstance(outlet.error(1), Cancelled)
        outlet.finished(2)
    assert len(outlet.ids(1)) == 3 or len(outlet.ids(1)) == 4  # the step that was under way


def test_nothing_is_computed_for_a_reader_without_credits_and_others_go_on():
    runner, slow, quick = EchoRunner(slot_count=2), RecordingOutlet(), RecordingOutlet()
    with running(echo_model(runner=runner)) as engine:
        work = generation("slow", count=10, credits=3)
        engine.submit(slow, 1, work)
        slow.wait_for_tokens(1, 3)
        for n in range(6):
            engine.submit(quick, n, generation("quick", count=5, seed=n))
        quick.wait_for_end(*range(6))
        assert len(slow.ids(1)) == 3
        engine.grant(slow, 1, 2)
        slow.wait_for_tokens(1, 5)
        engine.grant(slow, 1, 100)
        slow.finished(1)
    assert slow.ids(1) == runner.expected(work, 10)


def test_a_closed_outlet_hears_nothing_more_and_holds_nothing():
    gate = Gate(shut=True)
    runner, outlet, other = EchoRunner(gate=gate), RecordingOutlet(), RecordingOutlet()
    with running(echo_model(runner=runner)) as engine:
        engine.submit(outlet, 1, generation("a", count=300))
        engine.submit(outlet, 2, generation("a", count=300))
        gate.wait_until_blocked()
        engine.close_outlet(outlet)
        assert engine.live_request_count == 0
        engine.submit(other, 1, generation("b", count=2))
        gate.open()
        other.finished(1)
        assert runner.open_slots == frozenset()
    assert outlet.deliveries == []


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (generation("x", model="nobody"), ModelNotFound),
        (generation("x" * 500, count=500), CacheTooSmall),
        (encoding("x", model="chat"), TaskNotSupported),
        (generation("x", context=Context(deadline=0.0)), DeadlineExpired),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(work, error):
    outlet = RecordingOutlet()
    with running(echo_model()) as engine:
        with pytest.raises(error):
            engine.submit(outlet, 1, work)
        assert engine.live_request_count == 0
    assert outlet.events == {}


def test_a_live_id_is_refused_a_second_time():
    gate = Gate(shut=True)
    outlet = RecordingOutlet()
    with running(echo_model(runner=EchoRunner(gate=gate))) as engine:
        engine.submit(outlet, 1, generation("x"))
        with pytest.raises(DuplicateRequest):
            engine.submit(outlet, 1, generation("x"))


def test_a_cancel_frees_the_slot_even_when_no_step_follows():
    runner, outlet = EchoRunner(), RecordingOutlet()
    with running(echo_model(runner=runner)) as engine:
        engine.submit(outlet, 1, generation("stalled", credits=1))
        outlet.wait_for_tokens(1, 1)
        engine.cancel(outlet, 1)
        assert isinstance(outlet.error(1), Cancelled)
        assert runner.open_slots == frozenset()


def test_who_waits_for_a_reader_is_told_apart_from_who_waits_for_a_slot():
    runner, outlet = EchoRunner(slot_count=1), RecordingOutlet()
    with running(echo_model(runner=runner)) as engine:
        engine.submit(outlet, 1, generation("stalled", credits=1))
        outlet.wait_for_tokens(1, 1)
        engine.submit(outlet, 2, generation("whole", count=3))
        outlet.finished(2)
        facts = engine.facts()["chat"]
        assert sum(facts.stalled.sequences) == sum(facts.waiting.sequences) == 1


def test_a_deadline_is_kept_even_when_nothing_else_wakes_the_engine():
    outlet = RecordingOutlet()
    with running(echo_model()) as engine:
        context = Context(deadline=time.monotonic() + 1.0)
        engine.submit(outlet, 1, generation("stalled", credits=1, context=context))
        assert isinstance(outlet.error(1), DeadlineExpired)
    assert len(outlet.ids(1)) == 1
