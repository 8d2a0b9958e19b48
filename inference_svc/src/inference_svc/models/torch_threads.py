"""Compiled work on the very threads that torch's own operators run on: no second pool to wait beside theirs."""

import ctypes
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

_RUNTIME = re.compile(r"/lib(gomp|iomp5|omp)[-.][^/]*$")  # the last two know the first one's calls

Work = Callable[[Any], None]
"""A C function of one address, which any number of threads may be in at once."""


Piece = tuple[Work, Any, int]
"""Work, its order, and how many threads it is worth."""

_THREAD = threading.local()


@contextmanager
def putting_off(pieces: list[Piece]) -> Iterator[None]:
    """What this thread is asked to run is noted instead, in order."""
    before = getattr(_THREAD, "later", None)
    _THREAD.later = pieces
    try:
        yield
    finally:
        _THREAD.later = before


def run(work: Work, order: Any, thread_count: int) -> None:
    """Have the work done by so many threads, this one among them, where threads can be had; alone elsewhere.

    The number is 1 or that of torch's own team: for another the library would end threads and start them again. Where
    this thread puts work off, it is only noted.
    """
    later = getattr(_THREAD, "later", None)
    if later is not None:
        later.append((work, order, thread_count))
        return
    share = sharing() if thread_count > 1 else None
    if share is None:
        work(order)
    else:
        share(work, order, thread_count)


@cache
def sharing() -> Callable[[Work, Any, int], None] | None:
    """A function that has so many threads of this one's OpenMP team run the work, and returns when all are done. None
    where the library that torch's threads are of is not found."""
    parallel = getattr(_runtime(), "GOMP_parallel", None)
    if parallel is None:
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None

    def share(work: Work, order: Any, thread_count: int) -> None:
        parallel(work, ctypes.addressof(order), thread_count, 0)

    return share


@cache
def _runtime() -> ctypes.CDLL | None:
    """The library that torch's threads are of."""
    try:
        mapped = Path("/proc/self/maps").read_text()
        library = runtime_of_torch(mapped, Path(torch.__file__).resolve().parent)
        return ctypes.CDLL(library) if library else None
    except OSError:
        return None


def runtime_of_torch(mapped: str, package: Path) -> str | None:
    """The OpenMP library of torch among the files that are mapped: the only one, or of several (other packages bring
    their own) the one that came with torch, in `package` or in the folder of its libraries beside it."""
    paths = {line[line.index("/") :] for line in mapped.splitlines() if _RUNTIME.search(line)}
    own = {
        path
        for path in paths
        if Path(path).is_relative_to(package) or package.with_suffix(".libs") in Path(path).parents
    }
    found = own if len(paths) > 1 else paths
    return found.pop() if len(found) == 1 else None
