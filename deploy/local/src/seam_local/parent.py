"""Ending together with whoever started this process."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int) -> None:
    """Linux kills this process when `parent` ends, even by kill -9. It may have ended before this was asked for: then
    its place is taken by another already, and so this ends at once. Elsewhere only that look is had."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
