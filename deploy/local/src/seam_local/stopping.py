"""Signals: the first asks to stop, the second to stop at once."""

import asyncio
import signal
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """`first` is called at the first signal, `second` at each later one."""

    def __init__(self, first: Callable[[], None], second: Callable[[], None]) -> None:
        self.asked = asyncio.Event()
        self.hurried_by: int | None = None
        self._first = first
        self._second = second

    def listen(self) -> None:
        """From now on, in the running loop."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.receive, number)

    def receive(self, number: int) -> None:
        """A signal came."""
        if not self.asked.is_set():
            self.asked.set()
            self._first()
            return
        self.hurried_by = number
        self._second()
