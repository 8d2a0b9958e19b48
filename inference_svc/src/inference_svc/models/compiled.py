"""What compiled loops share: addresses, memory asked for ahead of time, and parts of work taken by many threads."""

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features, get_host_cpu_name
from numba import cfunc, njit, types
from numba.extending import intrinsic

from inference_svc.models.torch_threads import Work

LINE_BYTES = 64
"""Of a line of the caches: what one prefetch brings."""

LOOPS: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}
"""How loops over numbers are compiled: sums in any order, but the same at every call."""

MAXIMA: dict[str, Any] = {**LOOPS, "fastmath": {*LOOPS["fastmath"], "nnan"}}
"""How loops for the largest of numbers are: a NaN among them may be passed over, and is told by its exponential."""

_SIZE, _BYTE, _COUNT = ir.IntType(64), ir.IntType(8), ir.IntType(32)


def external(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
    """A function that LLVM or the linker knows by name."""
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def build_prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Code that asks for the line at an address, to be read soon; any address may be asked for."""
    prefetch = external(builder, "llvm.prefetch.p0", ir.VoidType(), _BYTE.as_pointer(), _COUNT, _COUNT, _COUNT)
    pointer = builder.inttoptr(address, _BYTE.as_pointer())
    builder.call(prefetch, [pointer, _COUNT(0), _COUNT(3), _COUNT(1)])  # to read, into every cache, data


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing_context: Any, address: Any) -> Any:
    """As `build_prefetch`, in compiled Python."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        build_prefetch(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def take(typing_context: Any, counter: Any, count: Any) -> Any:
    """Adds to the counter at an address, which other threads add to; gives what it was."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        address = builder.inttoptr(arguments[0], _SIZE.as_pointer())
        return builder.atomic_rmw("add", address, arguments[1], "seq_cst")

    return types.intp(types.intp, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def float_of_bits(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


def _pointers_to(kind: Any) -> Callable[..., Any]:
    @intrinsic  # type: ignore[untyped-decorator]
    def pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
            return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(kind)))

        return types.CPointer(kind)(types.intp), generate

    found: Callable[..., Any] = pointer
    return found


floats, halves, sizes = _pointers_to(types.float32), _pointers_to(types.int16), _pointers_to(types.int64)


@njit(inline="always", **LOOPS)  # type: ignore[untyped-decorator]
def exponential(x: Any) -> Any:
    """2 to a whole power times a polynomial of the rest (Cephes' expf): to a float32's last bits, and vectorised."""
    x = np.float32(-87.0) if x < np.float32(-87.0) else x
    x = np.float32(88.0) if x > np.float32(88.0) else x
    power = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    rest = x - power * np.float32(0.693359375) + power * np.float32(2.12194440e-4)
    series = np.float32(1.9875691500e-4)
    series = series * rest + np.float32(1.3981999507e-3)
    series = series * rest + np.float32(8.3334519073e-3)
    series = series * rest + np.float32(4.1665795894e-2)
    series = series * rest + np.float32(1.6666665459e-1)
    series = series * rest + np.float32(5.0000001201e-1)
    scale = float_of_bits(np.int32((np.int32(power) + np.int32(127)) << np.int32(23)))
    return (series * rest * rest + rest + np.float32(1.0)) * scale


@njit(inline="always", **LOOPS)  # type: ignore[untyped-decorator]
def capped(score: Any, softcap: Any) -> Any:
    """`softcap` times the hyperbolic tangent of the score's share of it."""
    one, two = np.float32(1.0), np.float32(2.0)
    return softcap * (one - two / (exponential(two * score / softcap) + one))


def compile_work(function: Callable[..., None]) -> Work:
    """For this CPU, as a C function of the address of some whole numbers: a second, or eight for attention, once for
    a folder that can be written, else once a process."""
    signature = types.void(types.CPointer(types.intp))
    # numba knows by its file whether code that it kept is still true, not by the files of what it calls.
    function.__qualname__ = f"{function.__name__}_{_stamp()}"
    try:
        compiled = cfunc(signature, nopython=True, cache=True)(function)
    except Exception:  # no folder to keep it in, a full one, or one whose files are torn
        compiled = cfunc(signature, nopython=True)(function)
    found: Work = compiled.ctypes
    return found


@cache
def _stamp() -> str:
    """Of all that compiled code depends on, beside its own file: what is kept is shared by whoever shares a folder."""
    seen = sha256()
    for path in [*sorted(Path(__file__).parent.glob("*_kernel.py")), Path(__file__)]:
        seen.update(path.read_bytes())
    for word in (numba.__version__, llvmlite.__version__, get_host_cpu_name(), get_host_cpu_features().flatten()):
        seen.update(word.encode())
    return seen.hexdigest()[:12]
