"""What compiled loops share: addresses, memory asked for ahead of time, and parts of work taken by many threads."""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from inference_svc.models.torch_threads import Work

LINE_BYTES = 64
"""Of a line of the caches: what one prefetch brings."""

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


def compile_work(function: Callable[..., None]) -> Work:
    """For this CPU, as a C function of the address of some whole numbers: a second or two, once for a folder that can
    be written, else once a process."""
    signature = types.void(types.CPointer(types.intp))
    try:
        compiled = cfunc(signature, nopython=True, cache=True)(function)
    except RuntimeError:  # no folder to keep it in
        compiled = cfunc(signature, nopython=True)(function)
    found: Work = compiled.ctypes
    return found
