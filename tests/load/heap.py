"""What the C heap of this process holds, by its own account."""

import ctypes


class _Mallinfo(ctypes.Structure):
    """glibc's mallinfo2."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


def mib_in_use() -> float:
    """What is allocated now, of all arenas and mappings of its own; 0 where glibc does not tell. Resident memory holds
    also what was freed and kept."""
    try:
        tell = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0.0
    tell.restype = _Mallinfo
    told = tell()
    return float(told.uordblks + told.hblkhd) / (1 << 20)
