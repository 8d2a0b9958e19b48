"""What a session has yet to tell its reader, and how much of it goes into the next frame. A plain state machine."""

from collections import deque

from seam.inference.v1 import session_pb2 as session_pb

from inference_svc.requests import Accepted, Event, Failed, Finished, Scores, Tokens, Vectors
from inference_svc.wire.inference_wire import TokenColumns, are_plain_tokens, write_events

FRAME_BYTES = 1 << 20  # a frame is closed when it is over this; no single event comes near the message limit


class Outbox:
    """News waits here while the writer is busy. Tokens are bounded by the requests' credits, requests by the session's
    limit, refusals by whoever asks `refusal_count` before reading on."""

    def __init__(self, *, columns: bool = False) -> None:
        """`columns`: whether the peer reads tokens column by column."""
        self._columns = columns
        self._pending: dict[int, list[Event]] = {}  # per request, in order; requests by their oldest news
        self._refusals: deque[tuple[int, Failed]] = deque()
        self.last_requests = 0
        """How many requests the last frame has news of."""

    def __bool__(self) -> bool:
        return bool(self._pending or self._refusals)

    @property
    def refusal_count(self) -> int:
        return len(self._refusals)

    def put(self, request_id: int, event: Event) -> None:
        """News of a live request."""
        self._pending.setdefault(request_id, []).append(event)

    def refuse(self, request_id: int, refusal: Failed) -> None:
        """A failed event that is not the end of a live request."""
        self._refusals.append((request_id, refusal))

    def fill(self, frame: session_pb.SessionResponse) -> list[int]:
        """Moves news into the frame until it is empty or the frame is full. Returns the requests whose end went in."""
        room = FRAME_BYTES
        self.last_requests = 0
        while self._refusals and room > 0:
            request_id, refusal = self._refusals.popleft()
            write_events(request_id, (refusal,), frame)
            room -= _size_of(refusal)
        ended = []
        columns = TokenColumns()
        while self._pending and room > 0:
            request_id = next(iter(self._pending))
            events = self._pending.pop(request_id)
            taken = 0
            while taken < len(events) and room > 0:
                room -= _size_of(events[taken])
                taken += 1
            if self._columns and are_plain_tokens(events):
                columns.add(request_id, events[:taken])
            else:
                write_events(request_id, events[:taken], frame)
            self.last_requests += 1
            if taken < len(events):
                self._pending[request_id] = events[taken:]
            elif isinstance(events[-1], Finished | Failed):
                ended.append(request_id)
        columns.write(frame)
        return ended


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
