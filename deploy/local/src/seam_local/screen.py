"""What people see: live progress on a terminal, plain lines anywhere else."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import COLOR_SYSTEMS, Console
from rich.control import strip_control_codes
from rich.status import Status
from rich.style import Style
from rich.table import Table
from rich.text import Text

COLOURS = ("cyan", "magenta", "green", "yellow", "blue")


class Screen:
    """Announcements go to standard output, progress and the children's lines to standard error."""

    def __init__(self, out: Console | None = None, log: Console | None = None) -> None:
        self.out = out or Console(file=sys.stdout, highlight=False)
        self.log = log or Console(file=sys.stderr, highlight=False)
        self._status: Status | None = None
        self._names: dict[str, str] = {}

    def say(self, text: str, style: str = "") -> None:
        """A line of Seam's own."""
        self.log.print(Text(f"seam-up: {text}", style=style), soft_wrap=True)

    def child_line(self, name: str, line: str) -> None:
        """A line that a child wrote, after its name."""
        colour = self._names.setdefault(name, COLOURS[len(self._names) % len(COLOURS)])
        if self._status:  # which has to be moved out of the way
            self.log.print(Text.assemble((f"{name:<12} ", colour), (line, "dim")), soft_wrap=True)
            self._status.update(Text(f"{name}: {line}"[:120]))
            return
        # There may be hundreds a second, two for each request: rich takes 40 times as long for one.
        before, said = self._styled(f"{name:<12} ", colour), self._styled(strip_control_codes(line), "dim")
        self.log.file.write(f"{before}{said}\n")
        self.log.file.flush()

    def _styled(self, text: str, style: str) -> str:
        colours = self.log.color_system
        return Style.parse(style).render(text, color_system=COLOR_SYSTEMS[colours]) if colours else text

    def take_logs(self) -> None:
        """What this process logs is shown like a child's lines."""
        logging.basicConfig(level=logging.INFO, handlers=[_ToScreen(self)])

    @contextmanager
    def progress(self, text: str) -> Iterator[None]:
        """A spinner with the newest line while something takes its time."""
        if not self.log.is_terminal:
            self.say(text)
            yield
            return
        with self.log.status(Text(text)) as self._status:
            try:
                yield
            finally:
                self._status = None

    def serving(self, rows: Mapping[str, str]) -> None:
        """What serves now, and where."""
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, value in rows.items():
            table.add_row(Text(name, style="bold"), Text(value))
        if self.out.is_terminal:
            self.out.print(table)
            return
        for name, value in rows.items():
            self.out.print(Text(f"{name}: {value}"), soft_wrap=True)


class _ToScreen(logging.Handler):
    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.INFO)
        self._screen = screen
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            self._screen.child_line(record.name.partition(".")[0], line)
