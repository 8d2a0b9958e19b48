"""One answer, streamed: to a terminal, into a pipe, or as events."""

import sys
from collections.abc import Iterator

from seam_client.answers import ChatEvent, Finished, Started, Text
from seam_client.command import scripting, showing
from seam_client.command.asking import Asking
from seam_client.sync_client import ChatStream


def stream_events(stream: ChatStream) -> None:
    """One JSON object a line. Raises SeamError."""
    for event in stream.events():
        _write(scripting.event_as_json(event) + "\n")


def stream_text(asking: Asking, stream: ChatStream, *, with_notice: bool = True) -> None:
    """The answer as it comes on standard output, what is beside it on standard error. Raises SeamError."""
    events = stream.events()
    first = _first_piece(asking, events, with_notice)
    clean = showing.harmless if asking.out.is_terminal else str
    try:
        while first is not None:
            if isinstance(first, Text):
                _write(clean(first.text))
            first = next(events, None)
    finally:
        if stream.so_far and not stream.so_far.endswith("\n"):
            _write("\n")
    for citation in stream.citations:
        asking.note(f"[{citation.start}:{citation.end}] {citation.source_id}: {citation.quote}")
    if stream.finished is not None:
        asking.note(showing.ending(stream.finished))
        if asking.err.is_terminal:
            asking.note(showing.footer(stream.finished.usage, stream.finished.timings))


def _first_piece(asking: Asking, events: Iterator[ChatEvent], with_notice: bool) -> ChatEvent | None:
    with asking.waiting("waiting for the model"):
        for event in events:
            if isinstance(event, Started) and with_notice:
                asking.note(event.notice)
            if isinstance(event, Text | Finished):
                return event
    return None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
