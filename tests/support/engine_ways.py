"""Ways of serving the same requests on a running engine, for tests that compare the answers."""

import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from inference_svc.engine.engine import Engine
from inference_svc.engine.runner import GenerationRunner
from inference_svc.engine.settings import EngineSettings
from inference_svc.model import LoadedModel
from inference_svc.requests import Event, Failed, Finished, Generation, Tokens

from support.echo import PATIENCE, EchoRunner, EchoTokenizer, echo_model

Answers = dict[str, list[int]]


class SmallCache:
    """A runner whose slots share a cache of `cache_token_count` tokens, and which counts what is asked of it."""

    def __init__(self, runner: GenerationRunner, cache_token_count: int | None = None) -> None:
        self._runner = runner
        self.cache_token_count = cache_token_count or runner.slot_count * runner.max_context_tokens
        self.opened = 0
        self.steps: list[list[int]] = []  # tokens of every row, step by step

    @property
    def cache_block_tokens(self) -> int:
        return int(self._runner.cache_block_tokens)  # type: ignore[attr-defined]

    @property
    def tokens_held_again(self) -> int:
        return int(self._runner.tokens_held_again)  # type: ignore[attr-defined]

    def tokens_held_with_others(self, slot: int) -> int:
        return int(self._runner.tokens_held_with_others(slot))  # type: ignore[attr-defined]

    def tokens_to_share(self, generation: Generation) -> int:
        return int(self._runner.tokens_to_share(generation))  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def open(self, slot: int, generation: Generation) -> int | None:
        self.opened += 1
        return self._runner.open(slot, generation)

    def step(self, rows: Sequence[Any]) -> Any:
        self.steps.append([len(row.token_ids) for row in rows])
        return self._runner.step(rows)


class Answering:
    """An outlet that gathers the answers of `awaited` by name, and calls `told` after each delivery, between steps."""

    def __init__(self, engine: Engine, awaited: Iterable[str], told: Callable[[], None] = lambda: None) -> None:
        self.answers: Answers = {}
        self._engine = engine
        self._awaited = set(awaited)
        self._told = told
        self._names: list[str] = []
        self._faults: list[str] = []
        self._changed = threading.Condition()

    def submit(self, name: str, asked: Generation) -> int:
        """Returns its request id."""
        self._names.append(name)
        self.answers[name] = list(asked.resumed_ids)
        self._engine.submit(self, len(self._names) - 1, asked)
        return len(self._names) - 1

    def deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        for number, event in events:
            name = self._names[number]
            if isinstance(event, Tokens):
                self.answers[name] += event.ids
            elif isinstance(event, Finished | Failed):
                with self._changed:
                    if isinstance(event, Failed) and name in self._awaited:
                        self._faults.append(f"{name}: {event.error!r}")
                    self._awaited.discard(name)
                    self._changed.notify_all()
        self._told()

    def wait(self) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: not self._awaited, PATIENCE):
                raise TimeoutError(f"{self._awaited} have no end")
        assert self._faults == []


def model_of(runner: Any, step_token_budget: int) -> LoadedModel:
    """512 ids in and out; the text is of no account."""
    plain = echo_model(runner=EchoRunner(slot_count=runner.slot_count, max_context_tokens=runner.max_context_tokens))
    return LoadedModel(replace(plain.info, vocabulary_size=512), EchoTokenizer(), runner, step_token_budget)


def all_at_once(runner: Any, asked: Mapping[str, Generation], step_token_budget: int = 4096) -> Answers:
    """Everything is there when the first step is planned."""
    engine = Engine([model_of(runner, step_token_budget)])
    outlet = Answering(engine, asked)
    for name, each in asked.items():
        outlet.submit(name, each)
    return _run(engine, outlet)


def one_by_one(runner: Any, asked: Mapping[str, Generation]) -> Answers:
    """Each comes when the one before is over."""
    engine, left = Engine([model_of(runner, 4096)]), list(asked.items())

    def stir() -> None:
        if left and engine.live_request_count == 0:
            outlet.submit(*left.pop(0))

    outlet = Answering(engine, asked, stir)
    stir()
    return _run(engine, outlet)


def come_and_go(runner: Any, asked: Mapping[str, Generation], whims: random.Random) -> Answers:
    """Up to three join after a step, in any order; beside some runs a copy that is cancelled before its end."""
    engine = Engine([model_of(runner, 96)], settings=EngineSettings(prompt_tokens_per_step=40))
    left = whims.sample(list(asked.items()), len(asked))
    leaving: list[int] = []

    def stir() -> None:
        for _ in range(whims.randint(0, 3) or int(engine.live_request_count == 0)):
            if left:
                name, each = left.pop()
                outlet.submit(name, each)
                if whims.random() < 0.3:
                    leaving.append(outlet.submit(f"{name}, which leaves", each))
        if leaving and whims.random() < 0.5:
            engine.cancel(outlet, leaving.pop(whims.randrange(len(leaving))))

    outlet = Answering(engine, asked, stir)
    stir()
    answers = _run(engine, outlet)
    return {name: answers[name] for name in asked}


def _run(engine: Engine, outlet: Answering) -> Answers:
    try:
        engine.start()
        outlet.wait()
    finally:
        assert engine.stop()
    return outlet.answers
