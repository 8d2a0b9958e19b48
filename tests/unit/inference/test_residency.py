"""A model comes while another answers."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

import pytest
from inference_svc.catalogue import Catalogue
from inference_svc.engine.engine import Engine
from inference_svc.errors import ModelLoadError, ModelLoadFailed
from inference_svc.loader import SimpleLoader
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.progress import Progress
from inference_svc.requests import ModelState, Task
from inference_svc.residency import Residency
from support.echo import EchoRunner, echo_model
from support.outlets import RecordingOutlet, generation

_LATE = ModelSpec("late", Task.GENERATE, "embedded:none")
Answer = TypeVar("Answer")


class InParts(SimpleLoader):
    """Notes how many steps `runner` has computed at each part; fails at part `broken`."""

    def __init__(self, runner: EchoRunner, broken: int | None = None) -> None:
        super().__init__(lambda spec, progress: echo_model(spec.name))
        self.seen: list[int] = []
        self._runner = runner
        self._broken = broken

    def warm_up(self, model: LoadedModel) -> Iterator[None]:
        for part in range(5):
            if part == self._broken:
                raise RuntimeError("the fourth part is broken")
            self.seen.append(self._runner.step_count)
            yield


class Hungry(Engine):
    """Its first request may go on by one token whenever something is to be run on the model thread, and does."""

    outlet = RecordingOutlet()

    def call(self, work: Callable[[], Answer]) -> "Future[Answer]":
        before = len(self.outlet.ids(1))
        self.grant(self.outlet, 1, 1)
        self.outlet.wait_for_tokens(1, before + 1)
        return super().call(work)


async def _loaded_beside_an_answer(broken: int | None) -> tuple[InParts, Catalogue]:
    chat = EchoRunner()
    loader = InParts(chat, broken)
    catalogue = Catalogue(())
    engine = Hungry([echo_model(runner=chat)])
    engine.outlet = RecordingOutlet()
    engine.start()
    residency = Residency(engine, catalogue, loader)
    try:
        async with asyncio.timeout(30):
            engine.submit(engine.outlet, 1, generation("x", count=100, credits=1))
            async for _ in residency.load(_LATE).progresses():
                pass
    finally:
        await residency.close()
        assert await asyncio.to_thread(engine.stop)
    return loader, catalogue


async def test_another_model_s_answers_go_on_between_the_parts_of_a_warm_up() -> None:
    loader, catalogue = await _loaded_beside_an_answer(None)
    assert len(loader.seen) == 5
    assert loader.seen == sorted(set(loader.seen)), "a step between any two"
    assert [entry.state for entry in catalogue.entries()] == [ModelState.READY]


class Held:
    """What a model takes."""


class FailsHolding(SimpleLoader):
    """A load or a warm-up that fails; notes whether what it took was given back when it was to be let go."""

    def __init__(self, *, warm: bool) -> None:
        super().__init__(self._fail_at_once if not warm else lambda spec, progress: echo_model(spec.name))
        self.held: weakref.ref[Held] | None = None
        self.was_alive: list[bool] = []

    def _fail_at_once(self, spec: ModelSpec, progress: Progress) -> LoadedModel:
        self._fail()
        raise AssertionError

    def _fail(self) -> None:
        held = Held()
        self.held = weakref.ref(held)
        raise ModelLoadError("no room")

    def warm_up(self, model: LoadedModel) -> Iterator[None]:
        held = Held()
        self.held = weakref.ref(held)
        yield
        raise ModelLoadError(f"no room beside {held}")

    def let_go(self, held: list[object]) -> None:
        super().let_go(held)
        gc.collect()
        assert self.held is not None
        self.was_alive.append(self.held() is not None)


@pytest.mark.parametrize("warm", [False, True], ids=["while it loads", "while it warms up"])
async def test_nothing_of_a_model_that_failed_is_held_when_its_memory_is_to_be_given_back(warm: bool) -> None:
    loader = FailsHolding(warm=warm)
    engine = Engine([])
    engine.start()
    residency = Residency(engine, Catalogue(()), loader)
    try:
        async with asyncio.timeout(30):
            for number in range(20):
                loading = residency.load(ModelSpec(f"late{number}", Task.GENERATE, "embedded:none"))
                with pytest.raises(ModelLoadFailed, match="no room"):
                    async for _ in loading.progresses():
                        pass
    finally:
        await residency.close()
        assert await asyncio.to_thread(engine.stop)
    assert sum(loader.was_alive) < 5, "a thread that is just leaving may still hold one, now and then"


async def test_a_warm_up_that_fails_half_way_is_told_as_the_load_s_end() -> None:
    with pytest.raises(ModelLoadFailed, match=r"late .* cannot be served: the fourth part is broken"):
        await _loaded_beside_an_answer(3)
