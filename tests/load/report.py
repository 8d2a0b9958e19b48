"""What every benchmark shares: a meter that knows how much of the machine was somebody else's, a table, a JSON file."""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass
class Meter:
    """Wall seconds of a `with` block, CPU seconds of the processes named, and the share of all cores that others used.

    A figure taken while `others` is above 0.05 is noise: take it again.
    """

    pids: Sequence[int] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    others: float = 0.0

    def _own(self) -> float:
        total = 0.0
        for pid in {os.getpid(), *self.pids}:
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    @staticmethod
    def _machine() -> float:
        times = psutil.cpu_times()
        return float(sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0))

    def __enter__(self) -> "Meter":
        self._start = time.perf_counter()
        self._own_start, self._machine_start = self._own(), self._machine()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.cpu_seconds = self._own() - self._own_start
        busy = self._machine() - self._machine_start
        cores = psutil.cpu_count() or 1
        self.others = max(0.0, (busy - self.cpu_seconds) / (self.seconds * cores))


def percentile(values: Sequence[float], share: float) -> float:
    """The value at `share` (0 to 1) of the sorted values, nearest rank; NaN of none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def environment() -> dict[str, object]:
    """Where the figures were taken: never compare across machines."""
    found: dict[str, object] = {
        "python": platform.python_version(),
        "cores": psutil.cpu_count(),
        "load_average": os.getloadavg()[0],
        "when": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    for name in ("torch", "transformers", "grpcio", "protobuf"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def report(title: str, rows: Sequence[Mapping[str, Any]], *, name: str, note: str = "") -> Path:
    """Print rows of like keys as a table and write them, with the environment, to results/NAME.json."""
    table = Table(title=title, caption=note or None)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if column == columns[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(width=180).print(table)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"title": title, "note": note, "environment": environment(), "rows": list(rows)}
    path.write_text(json.dumps(record, indent=1))
    print(f"written: {path}")
    return path


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        case _:
            return str(value)


__all__ = ["RESULTS", "Meter", "environment", "percentile", "report"]
