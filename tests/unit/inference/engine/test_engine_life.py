"""Draining, models that come and go, sharing the thread, and where its time goes."""

from itertools import count

import pytest
from inference_svc.engine.device_share import DeviceShare
from inference_svc.engine.device_time import Cause, DeviceTime
from inference_svc.engine.engine import Engine
from inference_svc.engine.settings import EngineSettings
from inference_svc.errors import Cancelled, Draining, EngineStopped, ModelNotFound, QueueFull
from inference_svc.requests import Context, ModelTotals, Priority, Task
from support.echo import EchoEncoder, EchoRunner, Gate, echo_model
from support.engines import running
from support.outlets import RecordingOutlet, encoding, generation


def test_draining_with_hand_back_gives_everything_to_be_resumed_at_once():
    gate = Gate(shut=True)
    runner, outlet = EchoRunner(slot_count=1, gate=gate), RecordingOutlet()
    with running(echo_model(runner=runner)) as engine:
        engine.submit(outlet, 1, generation("x", count=400))
        engine.submit(outlet, 2, generation("y", count=400))
        gate.allow(3)
        outlet.wait_for_tokens(1, 3)
        engine.drain(hand_back=True)
        gate.open()
        for request_id in (1, 2):
            error = outlet.error(request_id)
            assert isinstance(error, Draining)
            assert error.retry_after == 0
        assert engine.wait_until_drained(10)
        with pytest.raises(Draining):
            engine.submit(outlet, 3, generation("z"))


def test_draining_without_hand_back_lets_what_lives_finish():
    gate = Gate(shut=True)
    outlet = RecordingOutlet()
    with running(echo_model(runner=EchoRunner(gate=gate))) as engine:
        engine.submit(outlet, 1, generation("x", count=5))
        engine.drain(hand_back=False)
        with pytest.raises(Draining):
            engine.submit(outlet, 2, generation("z"))
        assert not engine.wait_until_drained(0.0)
        gate.open()
        outlet.finished(1)
        assert engine.wait_until_drained(10)


def test_a_model_may_come_and_go_without_touching_the_others():
    runner, outlet = EchoRunner(), RecordingOutlet()
    chat, late = echo_model(runner=runner), echo_model("late")
    with running(chat) as engine:
        gate = Gate(shut=True)
        runner.gate = gate
        engine.submit(outlet, 1, generation("x", count=30))
        gate.wait_until_blocked()
        with pytest.raises(ModelNotFound):
            engine.submit(outlet, 2, generation("x", model="late"))
        engine.add(late)
        with pytest.raises(ValueError, match="late"):
            engine.add(late)
        engine.submit(outlet, 2, generation("x", model="late", count=400, credits=1))
        gate.allow(2)
        outlet.wait_for_tokens(2, 1)
        engine.remove("late")
        with pytest.raises(ModelNotFound):
            engine.submit(outlet, 3, generation("x", model="late"))
        gate.open()
        assert isinstance(outlet.error(2), Draining)
        outlet.finished(1)
    assert late.runner.open_slots == frozenset()


def test_models_take_turns_so_that_none_starves():
    turns: list[str] = []

    class Chat(EchoRunner):
        def step(self, rows):
            turns.append("chat")
            return super().step(rows)

    class Embed(EchoEncoder):
        def encode(self, inputs):
            turns.append("embed")
            return super().encode(inputs)

    gate, outlet = Gate(shut=True), RecordingOutlet()
    chat = echo_model(runner=Chat(gate=gate))
    with running(chat, echo_model("embed", Task.EMBED, runner=Embed(), step_token_budget=16)) as engine:
        engine.submit(outlet, 1, generation("x", count=400))
        gate.wait_until_blocked()
        engine.submit(outlet, 2, encoding(*(f"text {n}" for n in range(100))))
        gate.open()
        outlet.finished(2)
        outlet.finished(1)
    assert turns.count("embed") >= 40
    last = len(turns) - turns[::-1].index("embed")
    assert "chat" in turns[turns.index("embed") : last]


@pytest.mark.parametrize(("works", "least"), [((1, 1), 40), ((63, 1), 10)])
def test_the_thread_is_shared_by_weight_of_waiting_work(works, least):
    share = DeviceShare()
    steps = {"a": 0, "b": 0}
    for _ in range(100):
        name = share.next({"a": works[0], "b": works[1]})
        assert name is not None
        steps[name] += 1
        share.used(name, 0.1, works[0] if name == "a" else works[1])
    assert min(steps.values()) >= least
    assert steps["a"] >= steps["b"]


def test_a_model_that_was_away_has_no_claim_to_the_time_it_did_not_use():
    share = DeviceShare()
    for _ in range(100):
        assert share.next({"a": 1}) == "a"
        share.used("a", 1.0, 1)
    taken = []
    for _ in range(10):
        name = share.next({"a": 1, "b": 1})
        assert name is not None
        taken.append(name)
        share.used(name, 1.0, 1)
    assert taken.count("b") == 5


def test_every_moment_is_charged_to_one_cause():
    time = DeviceTime(Cause.NO_WORK, 10.0)
    time.switch(Cause.HOST, 13.0)
    time.switch(Cause.COMPUTING, 13.5)
    time.switch(Cause.HOST, 17.5)
    assert time.read(18.0) == {
        "computing": 4.0,
        "no_work": 3.0,
        "waiting_for_credits": 0.0,
        "host": 1.0,
        "loading": 0.0,
    }


def test_the_causes_of_an_engines_time_add_up_to_wall_time():
    ticks, outlet = count(), RecordingOutlet()
    clock = lambda: float(next(ticks))  # every reading is a second later  # noqa: E731
    gate = Gate(shut=True)
    engine = Engine([echo_model(runner=EchoRunner(gate=gate))], clock=clock)
    engine.start()
    try:
        engine.submit(outlet, 1, generation("x", count=4, credits=2))
        gate.open()
        outlet.wait_for_tokens(1, 2)
        engine.call(lambda: None).result(10)
        engine.grant(outlet, 1, 5)
        outlet.finished(1)
    finally:
        assert engine.stop()
    spent = engine.idle_seconds()
    assert sum(spent.values()) == next(ticks) - 1
    assert all(spent[cause] > 0 for cause in ("computing", "host", "waiting_for_credits", "no_work", "loading"))


@pytest.mark.parametrize("loads", [True, False])
def test_an_idle_device_is_idle_for_loading_while_something_loads(loads):
    ticks, outlet = count(), RecordingOutlet()
    engine = Engine([echo_model()], clock=lambda: float(next(ticks)))
    if loads:
        engine.loading(True)
    engine.start()
    engine.submit(outlet, 1, generation("x"))
    outlet.finished(1)
    assert engine.stop()
    assert (engine.idle_seconds()["loading"] > 0) is loads


def test_loads_tell_who_runs_and_who_waits():
    gate = Gate(shut=True)
    runner, outlet = EchoRunner(slot_count=2, max_context_tokens=100, gate=gate), RecordingOutlet()
    with running(echo_model(runner=runner), echo_model("embed", Task.EMBED)) as engine:
        for n in range(5):
            engine.submit(outlet, n, generation("abcd", count=50))
        gate.allow(2)
        outlet.wait_for_tokens(0, 2)
        chat, embed = engine.loads()
        gate.open()
        outlet.wait_for_end(*range(5))
    assert (chat.model, embed.model) == ("chat", "embed")
    assert chat.running_sequence_count == 2
    assert chat.waiting_sequence_count == 3
    assert chat.queued_token_count == 12
    assert 200 - 2 * 7 <= chat.free_cache_token_count <= 200 - 2 * 5
    assert chat.step_duration > 0
    assert embed.waiting_sequence_count == 0


def test_an_engine_at_its_bounds_refuses_at_once_and_takes_again_when_there_is_room():
    gate = Gate(shut=True)
    runner, outlet = EchoRunner(slot_count=1, gate=gate), RecordingOutlet()
    with running(echo_model(runner=runner), settings=EngineSettings(max_waiting_sequences=2)) as engine:
        for n in range(3):
            engine.submit(outlet, n, generation("x", count=2))
        with pytest.raises(QueueFull) as refused:
            engine.submit(outlet, 3, generation("x", count=2))
        assert refused.value.retry_after is not None
        gate.open()
        outlet.wait_for_end(0, 1, 2)
        engine.submit(outlet, 3, generation("x", count=2))
        outlet.finished(3)


def test_a_call_between_steps_raises_to_its_caller_only():
    def fail() -> None:
        raise KeyError("sleep")

    outlet = RecordingOutlet()
    with running(echo_model()) as engine:
        with pytest.raises(KeyError):
            engine.call(fail).result(10)
        engine.submit(outlet, 1, generation("x"))
        outlet.finished(1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_waiting_sequences": 0},
        {"max_waiting_tokens": 0},
        {"aging_steps": 0},
        {"prompt_tokens_per_step": 0},
        {"tenant_weights": {"a": 0.0}},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EngineSettings(**wrong)


def test_a_call_that_the_model_thread_never_hears_is_told_so():
    engine = Engine([])
    before = engine.call(lambda: None)
    engine.start()
    before.result(10)
    assert engine.stop()
    with pytest.raises(EngineStopped):
        engine.call(lambda: None).result(10)


def test_cancels_and_grants_that_come_by_thousands_in_one_step_count_once_and_add_up():
    gate = Gate(shut=True)
    runner, outlet = EchoRunner(gate=gate), RecordingOutlet()
    with running(echo_model(runner=runner)) as engine:
        engine.submit(outlet, 1, generation("x", count=400, credits=1))
        engine.submit(outlet, 2, generation("y", count=400))
        gate.wait_until_blocked()
        for _ in range(1000):
            engine.cancel(outlet, 2)
        for _ in range(50):
            engine.grant(outlet, 1, 1)
        gate.open()
        outlet.wait_for_tokens(1, 51)
        assert isinstance(outlet.error(2), Cancelled)
        engine.grant(outlet, 1, 1)
        outlet.wait_for_tokens(1, 52)
        engine.close_outlet(outlet)


def test_totals_count_what_was_told_and_what_finished_and_who_waits():
    gate = Gate(shut=True)
    runner, outlet = EchoRunner(slot_count=1, max_context_tokens=100, gate=gate), RecordingOutlet()
    with running(echo_model(runner=runner), echo_model("embed", Task.EMBED)) as engine:
        engine.submit(outlet, 1, generation("abcd", count=5))
        engine.submit(outlet, 2, generation("ef", count=3, context=Context(priority=Priority.BATCH)))
        gate.allow(2)
        outlet.wait_for_tokens(1, 2)
        chat, embed = engine.totals()
        gate.open()
        outlet.wait_for_end(1, 2)
        done, _ = engine.totals()
    assert (chat.output_token_count, chat.finished_request_count, chat.waiting) == (2, 0, (1, 0, 0))
    assert embed == ModelTotals("embed", waiting=(0, 0, 0))
    assert (done.output_token_count, done.input_token_count, done.finished_request_count) == (8, 6, 2)
