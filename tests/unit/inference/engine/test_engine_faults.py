"""What goes wrong stays with its request; what cannot stay there ends the engine in order."""

import itertools
import threading
import time

import pytest
from inference_svc.engine.desk import Desk
from inference_svc.engine.engine import Engine
from inference_svc.errors import Draining, EngineStopped, NumericalFault, SeamError, StepFailed
from inference_svc.requests import Failed, Task, Vectors
from support.echo import LOST, NAN, POISON, REFUSED, EchoEncoder, EchoRunner, Gate, echo_model
from support.engines import running
from support.outlets import RecordingOutlet, encoding, generation


def test_a_request_that_the_runner_refuses_fails_alone():
    runner, outlet = EchoRunner(), RecordingOutlet()
    with running(echo_model(runner=runner)) as engine:
        engine.submit(outlet, 1, generation([REFUSED, 98]))
        engine.submit(outlet, 2, generation("good"))
        assert isinstance(outlet.error(1), StepFailed)
        assert isinstance(outlet.error(1).__cause__, ValueError)
        outlet.finished(2)


def test_a_poison_request_fails_alone_and_the_others_lose_nothing():
    gate = Gate(shut=True)
    runner, outlet = EchoRunner(slot_count=8, gate=gate), RecordingOutlet()
    works = {n: generation("good", count=9, seed=n) for n in range(7)}
    with running(echo_model(runner=runner)) as engine:
        for n, work in works.items():
            engine.submit(outlet, n, work)
        engine.submit(outlet, 50, generation([98, POISON, 99]))
        gate.open()
        assert isinstance(outlet.error(50), StepFailed)
        outlet.wait_for_end(*works)
    for n, work in works.items():
        assert outlet.ids(n) == runner.expected(work, 9)


def test_a_sequence_whose_numbers_are_not_finite_fails_alone():
    outlet = RecordingOutlet()
    with running(echo_model()) as engine:
        engine.submit(outlet, 1, generation([NAN, 98]))
        engine.submit(outlet, 2, generation("good"))
        assert isinstance(outlet.error(1), NumericalFault)
        outlet.finished(2)
    assert outlet.ids(1) == []


def test_a_step_without_memory_is_tried_smaller_until_it_fits():
    gate = Gate(shut=True)
    runner, outlet = EchoRunner(slot_count=8, memory_tokens=5, gate=gate), RecordingOutlet()
    works = {n: generation("abcdefgh" * n, count=9, seed=n) for n in range(1, 8)}
    with running(echo_model(runner=runner)) as engine:
        for n, work in works.items():
            engine.submit(outlet, n, work)
        gate.open()
        outlet.wait_for_end(*works)
    for n, work in works.items():
        assert outlet.ids(n) == runner.expected(work, 9)
    assert max(runner.step_sizes) <= 5


def test_a_request_that_has_no_memory_even_alone_fails():
    encoder, outlet = EchoEncoder(memory_tokens=6), RecordingOutlet()
    with running(echo_model("embed", Task.EMBED, runner=encoder)) as engine:
        engine.submit(outlet, 1, encoding("short", "much too long"))
        engine.submit(outlet, 2, encoding("fine", "good"))
        assert isinstance(outlet.error(1), StepFailed)
        outlet.finished(2)


def test_a_poison_input_fails_its_request_and_no_other():
    gate = Gate(shut=True)
    encoder, outlet = EchoEncoder(gate=gate), RecordingOutlet()
    with running(echo_model("embed", Task.EMBED, runner=encoder, step_token_budget=512)) as engine:
        for n in range(16):
            engine.submit(outlet, n, encoding(f"good {n}"))
        engine.submit(outlet, 99, encoding("fine", f"bad {chr(POISON)}"))
        gate.open()
        assert isinstance(outlet.error(99), StepFailed)
        outlet.wait_for_end(*range(16))
    assert all(isinstance(outlet.events[n][0], Vectors) for n in range(16))


def test_a_lost_device_ends_every_request_for_resuming_elsewhere_and_is_told():
    told = threading.Event()
    reasons: list[str] = []
    outlet = RecordingOutlet()

    def died(reason: str) -> None:
        reasons.append(reason)
        told.set()

    with running(echo_model(), echo_model("embed", Task.EMBED), died=died) as engine:
        engine.submit(outlet, 1, generation("good", count=400))
        outlet.wait_for_tokens(1, 1)
        engine.submit(outlet, 2, generation([LOST]))
        assert isinstance(outlet.error(1), EngineStopped)
        assert isinstance(outlet.error(2), EngineStopped)
        assert told.wait(10)
        assert "DeviceLost" in reasons[0]
        assert engine.dead is not None
        assert not engine.alive
        with pytest.raises(Draining):
            engine.submit(outlet, 3, encoding("x"))
        assert engine.live_request_count == 0


def test_a_fault_in_a_results_own_making_fails_its_request_alone():
    class Strange(EchoEncoder):
        def encode(self, inputs):
            return super().encode(inputs)[:, :1]

    outlet = RecordingOutlet()
    with running(echo_model("score", Task.SCORE, runner=Strange())) as engine:
        engine.submit(outlet, 1, scoring("x"))
        assert "results" in str(outlet.error(1))
        assert engine.alive


def test_an_outlet_that_raises_loses_its_requests_and_the_others_go_on():
    class Broken(RecordingOutlet):
        def deliver(self, events):
            raise RuntimeError("this session is gone")

    outlet = RecordingOutlet()
    with running(echo_model()) as engine:
        broken = Broken()
        engine.submit(broken, 1, generation("x", count=300))
        engine.submit(outlet, 1, generation("y", count=20))
        outlet.finished(1)
        assert engine.live_request_count == 0
        assert engine.alive


def test_stopping_tells_what_is_left_and_when_to_resume():
    gate = Gate(shut=True)
    outlet = RecordingOutlet()
    model = echo_model(runner=EchoRunner(slot_count=1, gate=gate))
    with running(model) as engine:
        engine.submit(outlet, 1, generation("x", count=400))
        engine.submit(outlet, 2, generation("x", count=400))
        gate.wait_until_blocked()
        stopper = threading.Thread(target=engine.stop)
        stopper.start()
        gate.allow(1)
        stopper.join(10)
        for request_id in (1, 2):
            error = outlet.error(request_id)
            assert isinstance(error, EngineStopped)
            assert error.retry_after is not None
        with pytest.raises(Draining):
            engine.submit(outlet, 3, generation("x"))
    assert model.runner.open_slots == frozenset()


@pytest.mark.parametrize("read", range(1, 6))
def test_a_stop_is_heard_wherever_the_model_thread_is(read):
    """It reads the clock all along its turn: a stop comes while it does so for the nth time."""
    stopped: list[bool] = []
    stopper = threading.Thread(target=lambda: stopped.append(engine.stop(5.0)))
    begun, reads = threading.Event(), itertools.count(1)

    def clock() -> float:
        if threading.current_thread().name == "model" and next(reads) == read:
            stopper.start()
            begun.set()
            time.sleep(0.05)  # the stop is all but over: it waits for this thread
        return time.monotonic()

    engine = Engine([echo_model()], clock=clock)
    engine.start()
    assert begun.wait(10)
    stopper.join(10)
    assert stopped == [True]


def test_what_is_taken_while_an_engine_stops_is_told_its_end(monkeypatch):
    """It comes just before the engine takes nothing any more: the model thread is there to hear of it."""
    gate = Gate(shut=True)
    model = echo_model(runner=EchoRunner(gate=gate))
    engine, outlet, refuse_all = Engine([model]), RecordingOutlet(), Desk.refuse_all

    def late(desk: Desk, error: SeamError) -> None:
        gate.open()
        time.sleep(0.2)  # a model thread that was told to stop would be gone
        engine.submit(outlet, 1, generation("x", count=400))
        refuse_all(desk, error)

    engine.start()
    engine.submit(outlet, 2, generation("y", count=400))
    gate.wait_until_blocked()
    monkeypatch.setattr(Desk, "refuse_all", late)
    assert engine.stop()
    outlet.wait_for_end(1)


def test_an_engine_that_never_started_still_tells_what_it_took():
    engine, outlet = Engine([echo_model()]), RecordingOutlet()
    engine.submit(outlet, 1, generation("x"))
    assert engine.stop()
    assert isinstance(outlet.events[1][0], Failed)


def scoring(text: str):
    from dataclasses import replace

    from inference_svc.requests import ScoreInput, ScoreWork

    return replace(encoding(text, model="score"), work=ScoreWork(inputs=(ScoreInput(text),)))
