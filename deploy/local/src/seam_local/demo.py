"""The main job once, for people to see: search a text by meaning, stream an answer, show where the time went."""

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from seam_client import AsyncSeam, Embeddings, Finished

from seam_local.passages import sentences
from seam_local.ready import Ready

MOST_SENTENCES = 32
SHOWN_SENTENCES = 3
QUERIES = ("Can I begin with a single process?", "Is my answer lost when a server dies?")
QUESTION = "What is a seam?"
MOST_ANSWER_TOKENS = 48


class Demo:
    """`started` is when the whole was begun, by time.monotonic()."""

    def __init__(self, text_file: Path, console: Console, started: float) -> None:
        self._text_file = text_file
        self._console = console
        self._started = started
        self._spent: list[tuple[str, float, str]] = []

    async def run(self, ready: Ready) -> None:
        """Raises seam_client.SeamError when Seam does not answer."""
        self._spend("start: processes, models, warm-up", time.monotonic() - self._started)
        async with AsyncSeam(ready.grpc, api_key=ready.api_key) as seam:
            await self._search(seam)
            await self._chat(seam)
        self._show_spent()

    async def _search(self, seam: AsyncSeam) -> None:
        passages = sentences(self._text_file.read_text(encoding="utf-8"), MOST_SENTENCES)
        begun = time.monotonic()
        known = await seam.embed(passages)
        self._spend(
            f"embed {len(passages)} sentences of {self._text_file.name}", time.monotonic() - begun, _model(known)
        )
        begun = time.monotonic()
        asked = await seam.embed(QUERIES)
        self._spend(f"embed {len(QUERIES)} questions", time.monotonic() - begun, _model(asked))
        self._console.print()
        for query, vector in zip(QUERIES, asked.embeddings, strict=True):
            table = Table(title=Text(f"“{query}”", style="bold"), title_justify="left", box=None, show_header=False)
            ranked = sorted(
                zip(passages, known.embeddings, strict=True), key=lambda pair: -_dot(pair[1].values, vector.values)
            )
            for passage, found in ranked[:SHOWN_SENTENCES]:
                table.add_row(f"{_dot(found.values, vector.values):.2f}", Text(passage))
            self._console.print(table)
            self._console.print()

    async def _chat(self, seam: AsyncSeam) -> None:
        self._console.print(Text(f"“{QUESTION}”", style="bold"))
        begun = time.monotonic()
        first: float | None = None
        async with seam.chat(QUESTION, max_output_tokens=MOST_ANSWER_TOKENS) as answer:
            async for piece in answer:
                if first is None:
                    first = time.monotonic() - begun
                    if answer.started and answer.started.notice:
                        self._console.print(Text(f"({answer.started.notice})", style="yellow"))
                self._console.out(piece.text, end="", highlight=False)
        self._console.print("\n")
        whole = time.monotonic() - begun
        self._spend("chat: until the first words", first if first is not None else whole)
        if answer.finished:
            self._spend("chat: the rest of the answer", whole - (first or 0.0), _generated(answer.finished))

    def _spend(self, what: str, seconds: float, detail: str = "") -> None:
        self._spent.append((what, seconds, detail))

    def _show_spent(self) -> None:
        table = Table(title=Text("Where the time went", style="bold"), title_justify="left", box=None)
        table.add_column("what")
        table.add_column("seconds", justify="right")
        table.add_column("of that, in the replica")
        for what, seconds, detail in self._spent:
            table.add_row(what, f"{seconds:.3f}", detail)
        self._console.print(table)


def _model(answer: Embeddings) -> str:
    timings, count = answer.timings, answer.usage.input_token_count
    return f"waited {timings.queue_seconds:.3f}, computed {timings.prefill_seconds:.3f}, {count} tokens"


def _generated(finished: Finished) -> str:
    timings, count = finished.timings, finished.usage.output_token_count
    rate = f", {(count - 1) / timings.decode_seconds:.0f} tokens/s" if timings.decode_seconds > 0 and count > 1 else ""
    return (
        f"waited {timings.queue_seconds:.3f}, prompt {timings.prefill_seconds:.3f}, "
        f"answer {timings.decode_seconds:.3f}, {count} tokens{rate}"
    )


def _dot(left: tuple[float, ...], right: tuple[float, ...]) -> float:
    """Cosine of two vectors of length one."""
    return sum(a * b for a, b in zip(left, right, strict=True))
