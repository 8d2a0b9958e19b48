"""Streams of gRPC out of an interrupt's reach.

Ctrl-C raises KeyboardInterrupt wherever the main thread is. While gRPC begins, reads or cancels a stream, that can be
the exit of a lock that is written in Python: the lock is then held for ever, and whatever the channel is asked next
waits for it. With grpcio 1.85, of the interrupts that came within half a millisecond of an event one in ten did so;
84,000 during calls of one answer never did. So the main thread leaves streams to other threads, and waits at a queue
that is written in C, which an interrupt leaves whole. Other threads are not interrupted, and call gRPC themselves.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, Protocol, Self, TypeVar

Done = TypeVar("Done")
Item = TypeVar("Item")
Given = TypeVar("Given", covariant=True)


class Streamed(Protocol[Given]):
    """A call of gRPC whose answers are read one by one."""

    def __iter__(self) -> Iterator[Given]: ...
    def cancel(self) -> object: ...


class Apart:
    """One thread that does for the main one what is soon done; it is started when it is first needed."""

    def __init__(self) -> None:
        self._works: SimpleQueue[Callable[[], object] | None] | None = None
        self._hand: threading.Thread | None = None

    def do(self, work: Callable[[], Done]) -> Done:
        """What `work` returns or raises. An interrupt does not end the work, only the wait for it."""
        if threading.current_thread() is not threading.main_thread():
            return work()
        outcomes: SimpleQueue[_Outcome[Done]] = SimpleQueue()
        self._at_hand().put(lambda: outcomes.put(_outcome(work)))
        return outcomes.get().told()

    def stream(self, begin: Callable[[], Streamed[Item]]) -> Streamed[Item]:
        """The call that `begin` begins, to be read in any thread; in the main one only if it was begun there."""
        if threading.current_thread() is not threading.main_thread():
            return begin()
        return self.do(lambda: _StreamApart(self, begin()))

    def end(self) -> None:
        """Its thread ends when it has done what was asked of it."""
        works, self._works = self._works, None
        if works is not None:
            works.put(None)

    def _at_hand(self) -> "SimpleQueue[Callable[[], object] | None]":
        works = self._works
        if works is None or self._hand is None or not self._hand.is_alive():  # after a fork it is not
            works = SimpleQueue()
            weakref.finalize(self, works.put, None).atexit = False
            self._hand = _thread(lambda: _do_all(works))
            self._works = works
        return works


class _StreamApart(Generic[Item]):
    """A thread of its own reads the call, one item each time that it is asked for one."""

    def __init__(self, apart: Apart, call: Streamed[Item]) -> None:
        self._apart = apart
        self._call = call
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._items: SimpleQueue[_Outcome[Item]] = SimpleQueue()
        self._ends: list[BaseException] = []
        asked, items, ends = self._asked, self._items, self._ends
        weakref.finalize(self, asked.put, False).atexit = False
        _thread(lambda: _read(call, asked, items, ends))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        if self._ends and self._items.empty():
            raise self._ends[0]
        self._asked.put(True)
        return self._items.get().told()

    def cancel(self) -> None:
        if not self._ends:
            self._apart.do(self._call.cancel)
            self._asked.put(False)


def _read(
    call: Streamed[Item], asked: SimpleQueue[bool], items: "SimpleQueue[_Outcome[Item]]", ends: list[BaseException]
) -> None:
    """Each True in `asked` asks for one item, False for no more. Refers to nothing of who asks, so that a stream that
    is forgotten is cancelled."""
    following = iter(call)
    wanted = True
    item: _Outcome[Item] = _Outcome(None, None)
    while item.error is None:
        if wanted and not (wanted := asked.get()):
            call.cancel()
        item = _outcome(lambda: next(following))
        if item.error is not None:
            ends.append(item.error)
        if wanted or item.error is not None:
            items.put(item)


def _do_all(works: "SimpleQueue[Callable[[], object] | None]") -> None:
    while (work := works.get()) is not None:
        work()
        del work  # and with it all that it refers to


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[Done]):
    """What a thread came to, for another one."""

    value: Done | None
    error: BaseException | None

    def told(self) -> Done:
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


def _outcome(work: Callable[[], Done]) -> _Outcome[Done]:
    try:
        return _Outcome(work(), None)
    except BaseException as error:
        return _Outcome(None, error)


def _thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, name="seam-call", daemon=True)
    thread.start()
    return thread
