"""Calls of gRPC out of an interrupt's reach.

Ctrl-C raises KeyboardInterrupt wherever the main thread is. Inside gRPC that can be the exit of a lock of the channel
that is written in Python: the lock is then held for ever, and whatever the channel is asked next by another thread
waits for it (with grpcio 1.85, after a few of those that came within half a millisecond of a call's begin or of an
event). So the main thread leaves calls to other threads, and waits at a queue that is written in C, which an interrupt
leaves whole. Other threads are not interrupted, and call gRPC themselves.
"""

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, Self, TypeVar

import grpc

Done = TypeVar("Done")
Item = TypeVar("Item")
Given = TypeVar("Given", covariant=True)
_LOOK_SECONDS = 0.1  # not every interrupt wakes who waits for a lock


class Answered(Protocol[Given]):
    """A call of gRPC with one answer."""

    def result(self) -> Given: ...
    def cancel(self) -> object: ...
    def add_done_callback(self, fn: Callable[["Answered[Given]"], None], /) -> object: ...


class Streamed(Protocol[Given]):
    """A call of gRPC whose answers are read one by one."""

    def __iter__(self) -> Iterator[Given]: ...
    def cancel(self) -> object: ...


class Apart:
    """One thread that does for the main one what is soon done; it is started when it is first needed."""

    def __init__(self) -> None:
        self._hand: _Hand | None = None
        self._streams: weakref.WeakSet[_StreamApart[Any]] = weakref.WeakSet()
        self._ended = False

    @property
    def needed(self) -> bool:
        """Whether an interrupt can come here, and another thread be had."""
        return threading.current_thread() is threading.main_thread() and not (self._ended or sys.is_finalizing())

    def do(self, work: Callable[[], Done]) -> Done:
        """What `work` returns or raises. An interrupt does not end the work, only the wait for it."""
        if not self.needed:
            return work()
        try:
            hand = self._at_hand()
        except RuntimeError:  # the interpreter ends, and starts no threads any more
            return work()
        outcomes: SimpleQueue[_Outcome[Done]] = SimpleQueue()
        hand.works.put(lambda: outcomes.put(_outcome(work)))
        return _told(_wait(outcomes, hand.over) or _outcome(work))

    def answer(self, begin: Callable[[], Answered[Done]]) -> Done:
        """The one answer of the call that `begin` begins. An interrupt cancels the call. Raises grpc.RpcError."""
        outcomes: SimpleQueue[_Outcome[Done]] = SimpleQueue()
        calls: list[Answered[Done]] = []
        given_up: list[bool] = []

        def begun() -> None:
            calls.append(begin())
            calls[0].add_done_callback(lambda call: outcomes.put(_outcome(lambda: _result(call))))
            if given_up:
                calls[0].cancel()

        try:
            self.do(begun)
            outcome = _wait(outcomes, [])
        except BaseException:
            given_up.append(True)
            for call in calls:
                self.do(call.cancel)
            raise
        assert outcome is not None
        return _told(outcome)

    def stream(self, begin: Callable[[], Streamed[Item]]) -> Streamed[Item]:
        """The call that `begin` begins, to be read in any thread; in the main one only if it was begun there."""
        if not self.needed:
            return begin()
        return self.do(lambda: self._followed(_StreamApart(self, begin())))

    def soon(self, work: Callable[[], object] | None) -> None:
        """Has it done without waiting for it; None ends the thread. A destructor may call this."""
        if self._hand is not None:
            self._hand.works.put(work)

    def end(self) -> None:
        """No thread is left, once all has been done that was asked of them and the calls have ended."""
        self._ended = True
        self.soon(self._leave_streams)
        self.soon(None)

    def _followed(self, stream: "_StreamApart[Item]") -> "_StreamApart[Item]":
        self._streams.add(stream)
        return stream

    def _leave_streams(self) -> None:
        for stream in self._streams:
            stream.leave()

    def _at_hand(self) -> "_Hand":
        hand = self._hand
        if hand is None or hand.process != os.getpid():
            hand = _Hand()
            weakref.finalize(self, hand.works.put, None).atexit = False
            _thread(hand.run)
            self._hand = hand
        return hand


@dataclass(frozen=True, slots=True)
class _Hand:
    """`over` is not empty once nothing more is done."""

    works: "SimpleQueue[Callable[[], object] | None]" = field(default_factory=SimpleQueue)
    over: list[bool] = field(default_factory=list)
    process: int = field(default_factory=os.getpid)

    def run(self) -> None:
        try:
            while (work := self.works.get()) is not None:
                work()
                del work  # and with it all that it refers to
        finally:
            self.over.append(True)


class _StreamApart(Generic[Item]):
    """A thread of its own reads the call, one item each time that it is asked for one."""

    def __init__(self, apart: Apart, call: Streamed[Item]) -> None:
        self._apart = apart
        self._call = call
        self._process = os.getpid()
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._items: SimpleQueue[_Outcome[Item]] = SimpleQueue()
        self._ends: list[BaseException] = []
        self._cancelled = False
        asked, items, ends = self._asked, self._items, self._ends
        weakref.finalize(self, _forget, apart, call, asked).atexit = False
        _thread(lambda: _read(call, asked, items, ends))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        if self._process != os.getpid() or sys.is_finalizing():  # the reader is no more
            return next(iter(self._call))
        return _told(self._next())

    def cancel(self) -> None:
        self._cancelled = True
        if not self._ends:
            self._apart.do(self._call.cancel)
            self.leave()

    def leave(self) -> None:
        """Its thread ends with the call, without being asked again."""
        self._asked.put(False)

    def _next(self) -> "_Outcome[Item]":
        if not self._ends:
            self._asked.put(True)
        item = _wait(self._items, self._ends)
        while item is not None and item.error is None and self._cancelled:
            item = _wait(self._items, self._ends)  # it came before
        return item or _Outcome(None, self._ends[0])


def _forget(apart: Apart, call: Streamed[object], asked: SimpleQueue[bool]) -> None:
    apart.soon(call.cancel)
    asked.put(False)


def _read(
    call: Streamed[Item], asked: SimpleQueue[bool], items: "SimpleQueue[_Outcome[Item]]", ends: list[BaseException]
) -> None:
    """Each True in `asked` asks for one item, False for no more but the end. Refers to nothing of who asks, so that a
    stream that is forgotten is cancelled."""
    following = iter(call)
    wanted = True
    while not ends:
        wanted = wanted and asked.get()
        item = _outcome(lambda: next(following))
        if item.error is not None:
            ends.append(item.error)
        if wanted or item.error is not None:
            items.put(item)


def _wait(outcomes: "SimpleQueue[_Outcome[Done]]", over: "list[bool] | list[BaseException]") -> "_Outcome[Done] | None":
    """The next one; None where `over` tells that there will be none."""
    while True:
        try:
            return outcomes.get(block=not over, timeout=_LOOK_SECONDS)
        except Empty:
            if over and outcomes.empty():
                return None


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[Done]):
    """What a thread came to, for another one."""

    value: Done | None
    error: BaseException | None


def _outcome(work: Callable[[], Done]) -> _Outcome[Done]:
    try:
        return _Outcome(work(), None)
    except BaseException as error:
        return _Outcome(None, error)


def _told(outcome: _Outcome[Done]) -> Done:
    value, error = outcome.value, outcome.error
    del outcome
    if error is None:
        return value  # type: ignore[return-value]
    try:
        raise error
    finally:
        del error  # its traceback refers to this frame


def _result(call: Answered[Done]) -> Done:
    try:
        return call.result()
    except grpc.FutureCancelledError:
        raise call from None  # type: ignore[misc]  # it is an RpcError too, as every call that failed


def _thread(work: Callable[[], object]) -> None:
    threading.Thread(target=work, name="seam-call", daemon=True).start()
