"""Pieces of compiled work run one behind the other in one go: threads wait for each other between them, not for
Python."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from inference_svc.models.compiled import compile_work
from inference_svc.models.torch_threads import Piece, Work, barrier_address, putting_off, run


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
        pieces, _held = self._pieces, self._held  # until the end of this
        self.drop()
        if not pieces:
            return
        thread_count = max(threads for _, _, threads in pieces) if barrier_address() else 1
        barrier = barrier_address() if thread_count > 1 else 0
        numbers = [each for work, order, _ in pieces for each in (_address(work), ctypes.addressof(order))]
        program = (ctypes.c_int64 * (len(numbers) + _HEAD))(barrier, len(pieces), *numbers)
        run(_compile_sequence(), program, thread_count)

    def drop(self) -> None:
        """Forget what was noted."""
        self._pieces, self._held = [], []


_HEAD = 2
_SIZE = ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]
def _call(typing_context: Any, function: Any, argument: Any) -> Any:
    """The function at an address, of one address."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        kind = ir.FunctionType(ir.VoidType(), [_SIZE]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), [arguments[1]])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


def _sequence(numbers: Any) -> None:
    """Every thread is in every piece, and waits for the others before the next."""
    head = carray(numbers, (_HEAD,), np.intp)
    barrier, count = head[0], head[1]
    pieces = carray(numbers, (_HEAD + 2 * count,), np.intp)
    for index in range(count):
        if index > 0 and barrier != 0:
            _call(barrier, 0)
        _call(pieces[_HEAD + 2 * index], pieces[_HEAD + 2 * index + 1])


@cache
def _compile_sequence() -> Work:
    return compile_work(_sequence)


_known: dict[int, tuple[Work, int]] = {}  # by identity: functions of C have no hash


def _address(work: Work) -> int:
    known = _known.get(id(work))
    if known is None:
        known = _known[id(work)] = (work, int(ctypes.cast(work, ctypes.c_void_p).value or 0))  # type: ignore[arg-type]
    return known[1]
