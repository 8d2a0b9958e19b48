"""Sends more texts than one request takes in parts, where the server says that they are too many."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.progress import Progress

from seam_client.answers import Embeddings, Scores, Timings, Usage
from seam_client.command.asking import Asking
from seam_client.errors import InvalidRequest, SeamError

Sent = TypeVar("Sent")
Answer = TypeVar("Answer", Embeddings, Scores)
_DIVISIBLE = ("TOO_MANY_TEXTS", "MESSAGE_TOO_LARGE")


def ask_in_parts(asking: Asking, ask: Callable[[list[Sent]], Answer], sent: list[Sent], model: str) -> list[Answer]:
    """The answer to all at once, or those of as many parts as the model's limit makes. Raises SeamError."""
    try:
        with asking.waiting(f"asking for {len(sent)} texts"):
            return [ask(sent)]
    except InvalidRequest as refused:
        limit = _limit(asking, model) if refused.reason in _DIVISIBLE else 0
        if not 0 < limit < len(sent):
            raise
    found: list[Answer] = []
    with Progress(console=asking.err, transient=True, disable=asking.json or not asking.err.is_terminal) as progress:
        for start in progress.track(range(0, len(sent), limit), description="texts"):
            part = sent[start : start + limit]
            with _placed(start, start + len(part)):
                found.append(ask(part))
    return found


def one_embeddings(parts: Sequence[Embeddings]) -> Embeddings:
    """As if it had been one request: counts and times are sums."""
    together = tuple(embedding for part in parts for embedding in part.embeddings)
    return Embeddings(together, parts[0].model, _usage(parts), _timings(parts))


def one_scores(parts: Sequence[Scores]) -> Scores:
    """As if it had been one request: counts and times are sums."""
    together = tuple(score for part in parts for score in part.scores)
    return Scores(together, parts[0].model, _usage(parts), _timings(parts))


def _limit(asking: Asking, model: str) -> int:
    return next((told.max_texts for told in asking.seam.models() if told.name == model), 0)


@contextmanager
def _placed(start: int, end: int) -> Iterator[None]:
    """Indices in errors count from the part's start: say which part it is."""
    try:
        yield
    except SeamError as error:
        said = f"among texts {start} to {end - 1}, counted from {start}: {error.message}"
        raise type(error)(error.code, error.reason, said, error.violations, error.retry_after) from None


def _usage(parts: Sequence[Embeddings] | Sequence[Scores]) -> Usage:
    return Usage(
        sum(part.usage.input_token_count for part in parts),
        sum(part.usage.output_token_count for part in parts),
        sum(part.usage.cached_token_count for part in parts),
    )


def _timings(parts: Sequence[Embeddings] | Sequence[Scores]) -> Timings:
    return Timings(
        sum(part.timings.queue_seconds for part in parts),
        sum(part.timings.prefill_seconds for part in parts),
        sum(part.timings.decode_seconds for part in parts),
        sum(part.timings.total_seconds for part in parts),
    )
