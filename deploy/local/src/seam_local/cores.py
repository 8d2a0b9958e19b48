"""What this process may compute on."""

import os


def usable_cores() -> int:
    """Those that the operating system lets it run on, which in a container may be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
