"""`seam status --watch`: looks again and again, and goes on where the server goes away and comes back."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import NoReturn, Protocol

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text as Shown

from seam_client.answers import Status
from seam_client.command import failing, scripting, showing
from seam_client.command.asking import Asking, tell
from seam_client.command.rates import Rates, ReplicaRates
from seam_client.command.status_view import StatusView, status_lines
from seam_client.errors import NotAuthenticated, SeamError

_PATIENCE = 5.0  # seconds that one look may take; a server that takes longer does not answer


class _Window(Protocol):
    """Where a look is shown."""

    def show(self, status: Status, rates: dict[str, ReplicaRates]) -> None: ...

    def miss(self, error: SeamError) -> None: ...


def watch(asking: Asking, interval: float) -> NoReturn:
    """Never returns: a server that is away is waited for, a wrong key is not. Ctrl-C leaves the last look standing."""
    live = Live(console=asking.out, auto_refresh=False) if asking.out.is_terminal and not asking.json else None
    window: _Window = _Json(asking) if asking.json else _Lines(asking) if live is None else _Screen(asking, live)
    held: AbstractContextManager[object] = live or nullcontext()
    with held:
        _look_on(asking, window, interval, time.monotonic)


def _look_on(asking: Asking, window: _Window, interval: float, clock: Callable[[], float]) -> NoReturn:
    rates = Rates()
    next_look = clock()
    while True:
        try:
            status = asking.seam.status(timeout=max(_PATIENCE, interval))
            window.show(status, rates.look(status, clock()))
        except NotAuthenticated:
            raise
        except SeamError as error:
            window.miss(error)
        next_look = max(next_look + interval, clock())
        time.sleep(max(0.0, next_look - clock()))


class _Json:
    """A status a line; what fails goes to standard error."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def show(self, status: Status, rates: dict[str, ReplicaRates]) -> None:
        typer.echo(scripting.as_json(status))

    def miss(self, error: SeamError) -> None:
        tell(self._asking.err, error, as_json=True)


class _Lines:
    """For pipes and logs: the time of day, and a line for each replica."""

    def __init__(self, asking: Asking) -> None:
        self._out: Console = asking.out

    def show(self, status: Status, rates: dict[str, ReplicaRates]) -> None:
        for line in status_lines(status, rates):
            self._say(line)

    def miss(self, error: SeamError) -> None:
        self._say(f"gone: {failing.line(error)}")

    def _say(self, line: str) -> None:
        showing.print_plain(self._out, f"{datetime.now():%H:%M:%S} {line}")
        self._out.file.flush()


class _Screen:
    """At a terminal: one view, drawn over the one before; what was last seen stays while the server is away."""

    def __init__(self, asking: Asking, live: Live) -> None:
        self._live = live
        self._target = asking.target
        self._last: Status | None = None
        self._rates: dict[str, ReplicaRates] = {}

    def show(self, status: Status, rates: dict[str, ReplicaRates]) -> None:
        self._last, self._rates = status, rates
        self._live.update(StatusView(status, self._target, rates), refresh=True)

    def miss(self, error: SeamError) -> None:
        said = failing.line(error)
        if self._last is None:
            self._live.update(Shown(showing.harmless(said), "red"), refresh=True)
        else:
            self._live.update(StatusView(self._last, self._target, self._rates, gone=said), refresh=True)
