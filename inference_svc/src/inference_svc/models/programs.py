"""Pieces of compiled work run one behind the other in one go: threads wait for each other between them, not for
Python, and only for those that are at work. One that the system keeps from its processor holds up nobody but in the
part of a piece that it has begun: when it comes, it passes what is done."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from inference_svc.models.compiled import compile_work, take
from inference_svc.models.torch_threads import Piece, Work, putting_off, run


class Program:
    """Pieces that are noted first, and run later. What they read and write must stay until then."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._held: list[object] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """What this thread is asked to run becomes the next pieces."""
        with putting_off(self._pieces):
            yield

    def hold(self, *things: object) -> None:
        """Memory that must stay until the pieces are run."""
        self._held.extend(things)

    def run(self) -> None:
        """Run what was noted, and forget it."""
        self.recorded().run()

    def recorded(self) -> "Recording":
        """What was noted, to be run any number of times; it is forgotten here."""
        recording = Recording(self._pieces, self._held)
        self.drop()
        return recording

    def drop(self) -> None:
        """Forget what was noted."""
        self._pieces, self._held = [], []


class Recording:
    """Pieces that are run, as often as is asked. What they read and write must stay."""

    def __init__(self, pieces: Sequence[Piece], held: Sequence[object]) -> None:
        """`held` is memory that stays as long as this."""
        self._orders = [order for _, order, _ in pieces]
        self._held = held
        self._thread_count = max((threads for _, _, threads in pieces), default=1)
        numbers = [each for work, order, _ in pieces for each in (_address(work), ctypes.addressof(order))]
        self._program = (ctypes.c_int64 * (_HEAD + 3 * len(pieces)))(len(pieces), _yield_address(), *numbers)

    def run(self) -> None:
        if not self._orders:
            return
        for order in self._orders:
            order[0] = 0  # the counter that parts are taken from
        run(_compile_sequence(), self._program, self._thread_count)


_HEAD = 2
_LOOKS = 20_000  # before one that waits lets others have its processor
_SIZE, _SIZE_BYTES = ir.IntType(64), 8


@intrinsic  # type: ignore[untyped-decorator]
def _call(typing_context: Any, function: Any, argument: Any) -> Any:
    """The function at an address, of one address."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        kind = ir.FunctionType(ir.VoidType(), [_SIZE]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), [arguments[1]])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def _read(typing_context: Any, counter: Any) -> Any:
    """The number at an address that other threads add to."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        return builder.load_atomic(builder.inttoptr(arguments[0], _SIZE.as_pointer()), "seq_cst", _SIZE_BYTES)

    return types.intp(types.intp), generate


def _sequence(numbers: Any) -> None:
    """Any number of threads may be in it at once. A piece is done when a thread has found no part of it left, and
    nobody is in it: who comes later finds none either."""
    head = carray(numbers, (_HEAD,), np.intp)
    count, give_way = head[0], head[1]
    pieces = carray(numbers, (_HEAD + 3 * count,), np.intp)
    present_at = pieces.ctypes.data + (_HEAD + 2 * count) * _SIZE_BYTES  # how many threads are in each piece
    for index in range(count):
        take(present_at + index * _SIZE_BYTES, 1)
        _call(pieces[_HEAD + 2 * index], pieces[_HEAD + 2 * index + 1])
        take(present_at + index * _SIZE_BYTES, -1)
        looks = 0
        while _read(present_at + index * _SIZE_BYTES) != 0:
            looks += 1
            if looks > _LOOKS:
                _call(give_way, 0)


@cache
def _compile_sequence() -> Work:
    return compile_work(_sequence)


@cache
def _yield_address() -> int:
    """Of the C library's sched_yield."""
    return int(ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0)


_known: dict[int, tuple[Work, int]] = {}  # by identity: functions of C have no hash


def _address(work: Work) -> int:
    known = _known.get(id(work))
    if known is None:
        known = _known[id(work)] = (work, int(ctypes.cast(work, ctypes.c_void_p).value or 0))  # type: ignore[arg-type]
    return known[1]
