"""Calls left to other threads: order, ends, cancels, and that nobody waits for what will not come."""

import _thread
import gc
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest
from seam_client.apart import Apart


class Cut(Exception):
    pass


class Call:
    """Gives what it is told to; raises Cut once it is cancelled."""

    def __init__(self, *items: int) -> None:
        self.told: SimpleQueue[int | None] = SimpleQueue()
        self.cancelled = threading.Event()
        self.threads: set[str] = set()
        for item in items:
            self.told.put(item)

    def __iter__(self) -> "Call":
        return self

    def __next__(self) -> int:
        self.threads.add(threading.current_thread().name)
        item = self.told.get()
        if self.cancelled.is_set():
            raise Cut
        if item is None:
            raise StopIteration
        return item

    def cancel(self) -> None:
        self.cancelled.set()
        self.told.put(None)


@pytest.fixture
def apart() -> Iterator[Apart]:
    made = Apart()
    yield made
    made.end()


def in_a_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_items_come_in_order_from_another_thread_and_the_end_again_and_again(apart: Apart) -> None:
    call = Call(1, 2, 3)
    stream = iter(apart.stream(lambda: call))
    call.told.put(None)
    assert list(stream) == [1, 2, 3]
    assert [next(stream, None) for _ in range(3)] == [None] * 3
    assert call.threads == {"seam-call"}


def test_a_thread_of_its_own_calls_itself(apart: Apart) -> None:
    call = Call(1)
    read = in_a_thread(lambda: next(iter(apart.stream(lambda: call))))
    read.join(10)
    assert call.threads == {read.name}


def test_what_work_raises_is_raised(apart: Apart) -> None:
    def work() -> None:
        raise Cut

    with pytest.raises(Cut):
        apart.do(work)
    with pytest.raises(Cut):
        apart.stream(work)  # type: ignore[arg-type]


def test_after_a_cancel_nothing_is_given_that_came_before(apart: Apart) -> None:
    call = Call()
    whole = apart.stream(lambda: call)
    stream = iter(whole)
    threading.Timer(0.2, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    call.told.put(1)
    whole.cancel()
    for _ in range(2):
        with pytest.raises(Cut):
            next(stream)


def test_a_stream_forgotten_while_it_is_waited_for_is_cancelled(apart: Apart) -> None:
    call = Call()
    threading.Timer(0.2, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        for _ in apart.stream(lambda: call):
            pass
    gc.collect()
    assert call.cancelled.wait(10)


def test_two_who_read_at_the_end_both_learn_of_it(apart: Apart) -> None:
    call = Call()
    stream = iter(apart.stream(lambda: call))
    readers = [in_a_thread(lambda: next(stream, None)) for _ in range(2)]
    call.told.put(None)
    for reader in readers:
        reader.join(10)
        assert not reader.is_alive()


def test_what_comes_after_the_end_is_done_all_the_same(apart: Apart) -> None:
    assert apart.do(lambda: threading.current_thread().name) == "seam-call"
    hand = apart._at_hand()
    apart.soon(None)  # as another thread's close between the look at the thread and the work
    assert apart.do(lambda: 5) == 5
    assert hand.over
    apart.end()
    assert apart.do(lambda: threading.current_thread()) is threading.main_thread()


def test_threads_end_with_the_client_though_its_streams_are_kept() -> None:
    before, apart, call = set(threading.enumerate()), Apart(), Call(1)
    kept = iter(apart.stream(lambda: call))
    assert next(kept) == 1
    apart.do(call.cancel)  # as closing a channel does
    apart.end()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
