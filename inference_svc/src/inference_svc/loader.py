"""What reads models for whoever keeps them: off the event loop and off the model thread. No torch here."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Protocol, TypeVar

from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.progress import Progress

Load = Callable[[ModelSpec, Progress], LoadedModel]  # on a thread of its own
Result = TypeVar("Result")


class Loader(Protocol):
    def load(self, spec: ModelSpec, progress: Progress, *, beside_others: bool) -> LoadedModel:
        """On a thread of its own. `beside_others`: take one core, since models are serving."""
        ...

    def warm_up(self, model: LoadedModel) -> Iterator[None]:
        """On the model thread, before the model is served, part by part: other models step in between."""
        ...

    def settle(self) -> None:
        """On the model thread, after each load, however it ended."""
        ...

    def let_go(self, held: list[object]) -> None:
        """On a thread of its own: empty the list, and give back the memory of what nobody holds any more."""
        ...


class SimpleLoader:
    """Of models that are warm as they come."""

    def __init__(self, load: Load) -> None:
        self._load = load

    def load(self, spec: ModelSpec, progress: Progress, *, beside_others: bool) -> LoadedModel:
        return self._load(spec, progress)

    def warm_up(self, model: LoadedModel) -> Iterator[None]:
        """It is warm."""
        return iter(())

    def settle(self) -> None:
        """Nothing was changed."""

    def let_go(self, held: list[object]) -> None:
        held.clear()


async def in_daemon_thread(function: Callable[[], Result]) -> Result:
    """A load cannot be interrupted; a daemon thread does not hold up a process that is told to end meanwhile."""
    done: Future[Result] = Future()

    def run() -> None:
        with suppress(InvalidStateError, RuntimeError):  # nobody waits any more, or their loop is closed
            try:
                done.set_result(function())
            except Exception as error:  # told to whoever waits
                done.set_exception(error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await asyncio.wrap_future(done)
