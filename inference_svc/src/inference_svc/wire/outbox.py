"""What a session has yet to tell its reader, and how much of it goes into the next frame. A plain state machine."""

from collections import deque

from seam.inference.v1 import session_pb2 as session_pb

from inference_svc.requests import Accepted, Event, Failed, Finished, Scores, Tokens, Vectors
from inference_svc.wire.inference_wire import TokenColumns, are_plain_tokens, write_events

FRAME_BYTES = 1 << 20  # a frame is closed when it is over this; no single event comes near the message limit


Written = tuple[int, int, bool]
"""What a frame says of one request: its id, how many tokens, whether its end. A bare tuple: there is one a token."""


class Outbox:
    """News waits here while the writer is busy. Plain tokens are bounded by what the requests may run ahead, requests
    by the session's limit, refusals by whoever asks `refusal_count` before reading on, everything else by whoever asks
    `heavy_bytes`."""

    def __init__(self, *, columns: bool = False) -> None:
        """`columns`: whether the peer reads tokens column by column."""
        self._columns = columns
        self._pending: dict[int, list[Event]] = {}  # per request, in order; requests by their oldest news
        self._refusals: deque[tuple[int, Failed]] = deque()
        self.heavy_bytes = 0  # about, of all that waits and is no plain token

    def __bool__(self) -> bool:
        return bool(self._pending or self._refusals)

    @property
    def refusal_count(self) -> int:
        return len(self._refusals)

    def put(self, request_id: int, event: Event) -> None:
        """News of a live request."""
        if _is_heavy(event):
            self.heavy_bytes += _size_of(event)
        self._pending.setdefault(request_id, []).append(event)

    def refuse(self, request_id: int, refusal: Failed) -> None:
        """A failed event that is not the end of a live request."""
        self._refusals.append((request_id, refusal))

    def clear(self) -> None:
        self._pending.clear()
        self._refusals.clear()
        self.heavy_bytes = 0

    def fill(self, frame: session_pb.SessionResponse) -> list[Written]:
        """Moves news into the frame until it is empty or the frame is full. Returns what went in."""
        room = FRAME_BYTES
        while self._refusals and room > 0:
            request_id, refusal = self._refusals.popleft()
            write_events(request_id, (refusal,), frame)
            room -= _size_of(refusal)
        written: list[Written] = []
        columns = TokenColumns()
        while self._pending and room > 0:
            request_id = next(iter(self._pending))
            events = self._pending.pop(request_id)
            taken = token_count = 0
            while taken < len(events) and room > 0:
                event = events[taken]
                size = _size_of(event)
                room -= size
                taken += 1
                if isinstance(event, Tokens):
                    token_count += len(event.ids)
                    if not event.logprobs and not event.prompt_logprobs:
                        continue
                self.heavy_bytes -= size
            if self._columns and are_plain_tokens(events):
                columns.add(request_id, events[:taken])
            else:
                write_events(request_id, events[:taken], frame)
            if taken < len(events):
                self._pending[request_id] = events[taken:]
            ended = taken == len(events) and isinstance(events[-1], Finished | Failed)
            written.append((request_id, token_count, ended))
        columns.write(frame)
        return written


def _is_heavy(event: Event) -> bool:
    return not isinstance(event, Tokens) or bool(event.logprobs or event.prompt_logprobs)


def _size_of(event: Event) -> int:
    """About how many bytes the event has on the wire."""
    match event:
        case Tokens():
            size = 16 + 4 * len(event.ids) + 2 * len(event.text)
            for position in (*event.logprobs, *event.prompt_logprobs):
                size += 24 * (1 + len(position.top))
            return size
        case Vectors(vectors):
            return sum(16 + 4 * len(vector.values) for vector in vectors)
        case Scores(scores):
            return sum(16 + 24 * len(score.values) for score in scores)
        case Failed():
            return 256
        case Accepted() | Finished():
            return 64
