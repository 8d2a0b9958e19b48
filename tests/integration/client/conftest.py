"""One face for both clients, so that one suite holds for both."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from seam_client import AsyncChatStream, AsyncSeam, Seam
from support.fake_business import KEY, FakeBusiness, fake_business


@pytest.fixture
def business() -> Iterator[FakeBusiness]:
    with fake_business() as running:
        yield running


class BlockingStream:
    """An AsyncChatStream driven step by step from a thread."""

    def __init__(self, runner: asyncio.Runner, stream: AsyncChatStream) -> None:
        self._runner, self._stream = runner, stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[Any]:
        return self._drive(self._stream.__aiter__())

    def events(self) -> Iterator[Any]:
        return self._drive(self._stream.events())

    def text(self) -> str:
        return self._runner.run(self._stream.text())

    def close(self) -> None:
        self._runner.run(self._stream.close())

    def __enter__(self) -> "BlockingStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drive(self, events: Any) -> Iterator[Any]:
        async def step() -> Any:
            return await anext(events, None)

        while (event := self._runner.run(step())) is not None:
            yield event


class BlockingSeam:
    """An AsyncSeam with the face of Seam."""

    def __init__(self, runner: asyncio.Runner, seam: AsyncSeam) -> None:
        self._runner, self._seam = runner, seam

    def chat(self, *args: Any, **settings: Any) -> BlockingStream:
        async def begin() -> AsyncChatStream:
            return self._seam.chat(*args, **settings)

        return BlockingStream(self._runner, self._runner.run(begin()))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            async def await_it() -> Any:
                return await getattr(self._seam, name)(*args, **kwargs)

            return self._runner.run(await_it())

        return call


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of one kind, with the key of the fake unless told otherwise, and closes them."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def make(target: str, **options: Any) -> Any:
            given = {"api_key": KEY} | options
            if request.param == "sync":
                return stack.enter_context(Seam(target, **given))
            blocking = BlockingSeam(runner, AsyncSeam(target, **given))
            stack.callback(blocking.close)
            return blocking

        yield make


@pytest.fixture
def seam(connect: Callable[..., Any], business: FakeBusiness) -> Any:
    return connect(business.target)
