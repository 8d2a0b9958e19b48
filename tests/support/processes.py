"""What runs on this machine, as the operating system tells it."""

import time
from collections.abc import Iterable

import psutil


def is_running(pid: int) -> bool:
    """Whether it runs; one that ended and waits for its parent to notice does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pids: Iterable[int], timeout: float = 30.0) -> None:
    """Return when none of them runs; fails with those that still do."""
    left = list(pids)
    deadline = time.monotonic() + timeout
    while left := [pid for pid in left if is_running(pid)]:
        if time.monotonic() > deadline:
            raise AssertionError(f"still running after {timeout} s: {left}")
        time.sleep(0.02)


def wait_until_closed(ports: Iterable[int], timeout: float = 30.0) -> None:
    """Return when nobody listens on any of them. A process that was killed holds its ports until its last thread has
    ended, a moment after it stops to look alive."""
    wanted = set(ports)
    deadline = time.monotonic() + timeout
    while left := listening_ports() & wanted:
        if time.monotonic() > deadline:
            raise AssertionError(f"still listened on after {timeout} s: {sorted(left)}")
        time.sleep(0.02)


def listening_ports() -> set[int]:
    """Every TCP port of this machine that somebody listens on."""
    return {each.laddr.port for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
