"""When requests arrive and how large they are: decided before the first is sent, so that no answer can delay it."""

import csv
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

CHARACTERS_PER_TOKEN = 4  # of a trace that counts prompts in tokens: the rule of thumb for English


class Kind(Enum):
    CHAT = "chat"
    PREDICT = "predict"
    EMBED = "embed"
    SCORE = "score"


class Arrivals(Enum):
    POISSON = "poisson"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Shot:
    """One request: when it is due, in seconds from the start, and what it asks. Output tokens of generation only."""

    at: float
    kind: Kind
    prompt_characters: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of whole numbers of at least 1: `draw` takes one."""

    name: str
    first: float
    second: float = 0.0

    def draw(self, random_numbers: random.Random) -> int:
        match self.name:
            case "lognormal":  # by its median, and the deviation of its logarithm
                drawn = self.first * math.exp(self.second * random_numbers.gauss(0.0, 1.0))
            case "uniform":
                drawn = random_numbers.uniform(self.first, self.second)
            case "exponential":  # by its mean
                drawn = random_numbers.expovariate(1 / self.first)
            case _:
                drawn = self.first
        return max(1, round(drawn))


_PARAMETERS = {"fixed": 1, "exponential": 1, "uniform": 2, "lognormal": 2}


def lengths_of(said: str) -> Lengths:
    """ "200", "fixed:200", "lognormal:MEDIAN:SIGMA", "uniform:LEAST:MOST" or "exponential:MEAN". Raises ValueError."""
    name, *numbers = said.split(":") if ":" in said else ("fixed", said)
    if name not in _PARAMETERS or len(numbers) != _PARAMETERS[name]:
        raise ValueError(f"{said!r}: say NUMBER, lognormal:MEDIAN:SIGMA, uniform:LEAST:MOST or exponential:MEAN")
    values = [float(number) for number in numbers]
    if not all(math.isfinite(value) and value >= 0 for value in values) or values[0] <= 0:
        raise ValueError(f"{said!r}: lengths are above 0")
    return Lengths(name, *values)


def mix_of(said: str) -> dict[Kind, float]:
    """ "chat", or kinds with their weights: "chat=3,embed=1". Raises ValueError."""
    mix: dict[Kind, float] = {}
    for part in said.split(","):
        name, _, weight = part.strip().partition("=")
        if name not in {kind.value for kind in Kind}:
            raise ValueError(f"{name!r} is no kind: say {', '.join(kind.value for kind in Kind)}")
        mix[Kind(name)] = float(weight or 1)
    if not all(math.isfinite(weight) and weight >= 0 for weight in mix.values()) or not sum(mix.values()):
        raise ValueError(f"{said!r}: weights are above 0")
    return mix


def rates_of(said: str) -> list[float]:
    """ "20", "5,10,20" or "FIRST:LAST:STEP", in requests a second. Raises ValueError."""
    if said.count(":") == 2:
        first, last, step = (float(part) for part in said.split(":"))
        if not (0 < first <= last < math.inf and 0 < step < math.inf):
            raise ValueError(f"{said!r}: rates rise from above 0 by a step above 0")
        return [first + number * step for number in range(math.floor((last - first) / step + 1e-9) + 1)]
    rates = [float(part) for part in said.split(",")]
    if not all(0 < rate < math.inf for rate in rates):
        raise ValueError(f"{said!r}: rates are above 0")
    return rates


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a drawn schedule is drawn from."""

    mix: Mapping[Kind, float]
    arrivals: Arrivals
    prompt_characters: Lengths
    output_tokens: Lengths


def drawn(pattern: Pattern, rate: float, seconds: float, seed: int) -> list[Shot]:
    """Arrivals at `rate` a second, for so long. The same seed gives the same schedule."""
    random_numbers = random.Random(seed)
    kinds, weights = list(pattern.mix), list(pattern.mix.values())
    shots: list[Shot] = []
    for at in _moments(pattern.arrivals, rate, random_numbers):
        if at >= seconds:
            return shots
        kind = random_numbers.choices(kinds, weights)[0]
        prompt, output = pattern.prompt_characters.draw(random_numbers), pattern.output_tokens.draw(random_numbers)
        shots.append(Shot(at, kind, prompt, output))
    return shots


def _moments(arrivals: Arrivals, rate: float, random_numbers: random.Random) -> Iterator[float]:
    at = 0.0
    while True:
        yield at
        at += random_numbers.expovariate(rate) if arrivals is Arrivals.POISSON else 1 / rate


def traced(file: Path, *, default_kind: Kind = Kind.CHAT, speed: float = 1.0) -> list[Shot]:
    """A schedule from a file: CSV with a heading, or JSON objects a line. Fields: `at` (seconds; or `timestamp`),
    `prompt_characters` or `prompt_tokens`, `output_tokens`, `kind`; what is left out is 0 s, 200 characters, 64 tokens,
    `default_kind`. `speed` above 1 plays it faster. Raises ValueError with the line, OSError."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows: list[Mapping[str, Any]]
        if file.suffix == ".csv":
            rows = list(csv.DictReader(lines))
        else:
            rows = [_object(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ValueError(f"{file} has no requests")
    shots = []
    for number, row in enumerate(rows, 1):
        try:
            shots.append(_shot(row, default_kind, speed))
        except (TypeError, ValueError) as wrong:
            raise ValueError(f"{file}: request {number}: {wrong}") from wrong
    first = min(shot.at for shot in shots)
    begun = [Shot(shot.at - first, shot.kind, shot.prompt_characters, shot.output_tokens) for shot in shots]
    return sorted(begun, key=lambda shot: shot.at)


def _object(number: int, line: str) -> Mapping[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError(f"line {number} is no JSON object")
    return found


def _shot(row: Mapping[str, Any], default_kind: Kind, speed: float) -> Shot:
    characters = row.get("prompt_characters") or CHARACTERS_PER_TOKEN * int(row.get("prompt_tokens") or 50)
    at = float(row.get("at") or row.get("timestamp") or 0.0) / speed
    if not math.isfinite(at):
        raise ValueError(f"at is {at}")
    kind = Kind(row.get("kind") or default_kind)
    return Shot(at, kind, max(1, int(characters)), max(1, int(row.get("output_tokens") or 64)))


_WORDS = (
    "a",
    "seam",
    "is",
    "where",
    "two",
    "parts",
    "of",
    "one",
    "thing",
    "meet",
    "and",
    "can",
    "come",
    "apart",
    "again",
)


def text_of(shot: Shot, number: int) -> str:
    """Words up to the length; no two shots begin alike, so that no cache of beginnings makes them cheap."""
    random_numbers = random.Random(number)
    text = f"{number:x}"
    while len(text) < shot.prompt_characters:
        text += " " + random_numbers.choice(_WORDS)
    return text[: shot.prompt_characters]


def split(shots: Sequence[Shot], parts: int) -> list[list[tuple[int, Shot]]]:
    """Shared out in turn, each with its number in the whole."""
    numbered = list(enumerate(shots))
    return [numbered[part::parts] for part in range(parts)]
