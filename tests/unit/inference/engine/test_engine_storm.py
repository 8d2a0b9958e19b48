"""Everything at once from several threads: each request ends exactly once, with the answer that it has alone."""

import random
import threading

import pytest
from inference_svc.engine.engine import Engine
from inference_svc.engine.settings import EngineSettings
from inference_svc.errors import Cancelled, DeadlineExpired, DeadlineInfeasible, QueueFull, StepFailed
from inference_svc.requests import Context, Failed, Finished, Generation, Priority, Task, Vectors
from support.echo import POISON, EchoEncoder, EchoRunner, echo_model
from support.engines import running
from support.outlets import RecordingOutlet, encoding, generation

REFUSALS = (QueueFull, DeadlineInfeasible)


class Client(threading.Thread):
    """Submits a seeded mixture and remembers what was taken."""

    def __init__(self, engine: Engine, seed: int, count: int) -> None:
        super().__init__(name=f"client {seed}")
        self.engine, self.count, self.draw = engine, count, random.Random(seed)
        self.outlet = RecordingOutlet()
        self.taken: dict[int, Generation | None] = {}  # None for an encoding
        self.cancelled: set[int] = set()

    def run(self) -> None:
        for request_id in range(self.count):
            try:
                self.submit(request_id)
            except REFUSALS:
                continue
            if self.draw.random() < 0.2:
                victim = self.draw.randrange(request_id + 1)
                self.cancelled.add(victim)
                self.engine.cancel(self.outlet, victim)
        for request_id in range(self.count):
            self.engine.grant(self.outlet, request_id, 1000)

    def submit(self, request_id: int) -> None:
        draw = self.draw
        context = Context(priority=draw.choice(list(Priority)), tenant=draw.choice("abc"))
        if draw.random() < 0.3:
            work = encoding(*(f"text {draw.randrange(50)}" for _ in range(draw.randint(1, 9))), context=context)
            self.engine.submit(self.outlet, request_id, work)
            self.taken[request_id] = None
            return
        prompt = [draw.randrange(97, 120) for _ in range(draw.randint(1, 40))]
        if draw.random() < 0.05:
            prompt[draw.randrange(len(prompt))] = POISON
        made = generation(
            prompt,
            count=draw.randint(1, 20),
            seed=request_id,
            credits=draw.choice([None, None, 0, 3]),
            context=context,
        )
        self.engine.submit(self.outlet, request_id, made)
        self.taken[request_id] = made


@pytest.mark.parametrize("seed", range(3))
def test_every_request_ends_once_and_as_it_would_alone(seed):
    runner, encoder = EchoRunner(slot_count=5, max_context_tokens=64, cache_token_count=160), EchoEncoder()
    models = (
        echo_model(runner=runner, step_token_budget=24),
        echo_model("embed", Task.EMBED, runner=encoder, step_token_budget=40),
    )
    with running(*models, settings=EngineSettings(max_waiting_sequences=60, aging_steps=30)) as engine:
        clients = [Client(engine, 10 * seed + n, 80) for n in range(3)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
            client.outlet.wait_for_end(*client.taken)
        assert engine.wait_until_drained(10)
        assert engine.alive
    for client in clients:
        for request_id, work in client.taken.items():
            check(runner, client, request_id, work)
    assert max(runner.step_sizes) <= 24


def check(runner: EchoRunner, client: Client, request_id: int, work: Generation | None) -> None:
    match client.outlet.end(request_id):
        case Failed(error=Cancelled()):
            assert request_id in client.cancelled
        case Failed(error=error):
            assert isinstance(error, StepFailed | DeadlineExpired)
            assert work is not None
            assert POISON in work.prompt_ids
        case Finished() if work is None:
            events = client.outlet.events[request_id]
            indices = [v.index for event in events if isinstance(event, Vectors) for v in event.vectors]
            assert sorted(indices) == list(range(len(indices)))
        case Finished():
            assert work is not None
            assert client.outlet.ids(request_id) == runner.expected(work, work.max_output_tokens)
