"""How answers look to people."""

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text as Shown

from seam_client.answers import (
    Embeddings,
    Finished,
    Model,
    Prediction,
    Scores,
    Timings,
    Usage,
)
from seam_client.asking import ScoreText

_NUMBERS_SHOWN = 4

# C0 and C1 controls but tab and newline, and DEL: a model's words must not steer the terminal.
_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)}
_VISIBLE |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def harmless(text: str) -> str:
    """The text with its control characters made visible."""
    return text.translate(_VISIBLE)


def footer(usage: Usage, timings: Timings) -> str:
    """Where the time went; what there was none of is left out."""
    told = [f"{usage.input_token_count:,} tokens in"]
    if usage.cached_token_count:
        told[0] += f" ({usage.cached_token_count:,} cached)"
    if usage.output_token_count:
        told[0] += f", {usage.output_token_count:,} out"
    parts = (
        ("queue", timings.queue_seconds),
        ("prefill", timings.prefill_seconds),
        ("decode", timings.decode_seconds),
        ("total", timings.total_seconds),
    )
    told += [f"{name} {duration(seconds)}" for name, seconds in parts if seconds > 0]
    # Decode runs from the first token to the last: one token less than there are.
    if usage.output_token_count > 1 and timings.decode_seconds > 0:
        told.append(f"{(usage.output_token_count - 1) / timings.decode_seconds:.1f} tokens/s")
    return " · ".join(told)


def duration(seconds: float) -> str:
    """Three figures, or minutes and hours."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def ending(finished: Finished | Prediction) -> str:
    """Why the answer ended, where that is worth a word."""
    return "cut at the token limit" if finished.reason.value == "length" else ""


def embeddings_table(texts: Sequence[str], answer: Embeddings) -> RenderableType:
    table = _table("", "text", "tokens", "first numbers", right=("", "tokens"))
    for number, (text, told) in enumerate(zip(texts, answer.embeddings, strict=True)):
        first = " ".join(f"{value:+.4f}" for value in told.values[:_NUMBERS_SHOWN])
        more = " …" if len(told.values) > _NUMBERS_SHOWN else ""
        tokens = f"{told.input_token_count}{' (cut)' if told.truncated else ''}"
        table.add_row(str(number), _short(text), tokens, first + more)
    size = len(answer.embeddings[0].values) if answer.embeddings else 0
    return Group(table, Shown(f"{len(answer.embeddings)} vectors of {size} numbers from {answer.model}", "dim"))


def scores_table(inputs: Sequence[ScoreText], answer: Scores) -> RenderableType:
    paired = any(not isinstance(given, str) for given in inputs)
    table = _table("", "text", *(["pair"] if paired else []), "tokens", "scores", right=("", "tokens"))
    for number, (given, told) in enumerate(zip(inputs, answer.scores, strict=True)):
        parts = (given,) if isinstance(given, str) else given
        best = max((label.score for label in told.labels), default=0.0)
        labels = Shown(" ").join(
            Shown(f"{label.label} {label.score:.3f} ", "bold" if label.score == best else "") for label in told.labels
        )
        table.add_row(str(number), *(_short(part) for part in parts), str(told.input_token_count), labels)
    return table


def models_table(models: Sequence[Model]) -> RenderableType:
    table = _table(
        "model", "task", "ready", "context", "texts", "vector", "source", right=("context", "texts", "vector")
    )
    for told in models:
        table.add_row(
            Shown(told.name, "bold"),
            told.task.value,
            Shown("yes", "green") if told.ready else Shown("no", "red"),
            f"{told.max_context_tokens:,}",
            f"{told.max_texts:,}",
            f"{told.dimension_count:,}" if told.dimension_count else "",
            Shown(harmless(told.source)),
        )
    notices = [Shown(f"{told.name}: {harmless(told.notice)}", "dim") for told in models if told.notice]
    labels = [Shown(f"{t.name}: labels {harmless(', '.join(t.labels))}", "dim") for t in models if t.labels]
    return Group(table, *notices, *labels)


def print_plain(console: Console, text: str, style: str = "") -> None:
    """One piece of text without markup, colours of numbers, or line breaks of rich's making."""
    # Scripts get one line; a terminal breaks it between words.
    console.print(Shown(harmless(text), style), soft_wrap=not console.is_terminal, highlight=False)


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table


def _short(text: str, limit: int = 40) -> Shown:
    flat = " ".join(harmless(text).split())
    return Shown(flat if len(flat) <= limit else flat[: limit - 1] + "…")
