"""One live request on one session: where its events wait for the reader, and what the reader may still get."""

import asyncio
from collections import deque
from collections.abc import Callable

from seam.inference.v1.session_pb2 import Event

from business_svc.domain.inference import Tokens
from business_svc.errors import Reason, SeamError
from business_svc.link.credits import Credits
from business_svc.link.inference_wire import Failed, News, news_of


class Exchange:
    """Made by a session, read by one task. Its last news is Finished or Failed, exactly once.

    Bounded by construction: tokens by credits, vectors and scores by the texts that were asked (`most_results`), one
    acceptance, one end.
    """

    __slots__ = (
        "_arrived",
        "_credits",
        "_deadline",
        "_grant",
        "_leave",
        "_results_left",
        "_unread",
        "ended",
        "model",
        "seen",
    )

    def __init__(
        self,
        model: str,
        credits: Credits | None,
        most_results: int,
        grant: Callable[[int], None],
        leave: Callable[[], None],
    ) -> None:
        self.model = model
        self.seen = False  # whether the replica has answered anything: its load then counts this request
        self._credits = credits
        self._results_left = most_results
        self._grant = grant
        self._leave = leave
        self._unread: deque[tuple[Event | Tokens | Failed, int]] = deque()  # with its count of tokens
        self._arrived: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.ended = False

    # --- the session's side ---

    def deliver(self, event: Event) -> bool:
        """Returns whether this was the end. Raises CreditsOverdrawn, PeerBroke."""
        which = event.WhichOneof("event")
        first, self.seen = not self.seen, True
        ends = which in ("finished", "failed")
        if self.ended:
            return ends
        count = 0
        if which == "tokens":
            count = len(event.tokens.ids)
            self._take_credits(count)
        elif which in ("vectors", "scores"):
            self._results_left -= len(event.vectors.embeddings) + len(event.scores.scores)
            if self._results_left < 0:
                raise PeerBroke("more results came than texts were asked")
        elif which == "accepted" and not first:
            raise PeerBroke("a request was accepted twice")
        self._put(event, count, ends)
        return ends

    def deliver_tokens(self, tokens: Tokens) -> None:
        """As `deliver`, of what came in columns. Raises CreditsOverdrawn, PeerBroke."""
        self.seen = True
        if self.ended:
            return
        self._take_credits(len(tokens.ids))
        self._put(tokens, len(tokens.ids), ends=False)

    def _take_credits(self, count: int) -> None:
        if self._credits is None:
            raise PeerBroke("tokens came for a request that generates none")
        self._credits.received(count)

    def expire_with(self, timer: asyncio.TimerHandle) -> None:
        """The timer of its deadline, to be stopped at its end."""
        self._deadline = timer

    def release(self) -> None:
        """The replica says no more about it."""
        if self._deadline is not None:
            self._deadline.cancel()

    def fail(self, error: SeamError) -> None:
        """Ends it from this side; nothing that comes later is seen."""
        if not self.ended:
            self._put(Failed(error), 0, ends=True)

    def _put(self, event: Event | Tokens | Failed, count: int, ends: bool) -> None:
        self.ended = ends
        self._unread.append((event, count))
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    # --- the reader's side ---

    async def next(self) -> News:
        """Not to be called after Finished or Failed."""
        while not self._unread:
            if self.ended:
                raise RuntimeError("read past the end of a request")
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        event, count = self._unread.popleft()
        if isinstance(event, Failed):
            return event
        if count and self._credits is not None:
            granted = self._credits.taken(count)
            if granted and not self.ended:
                self._grant(granted)
        return event if isinstance(event, Tokens) else news_of(event)

    def close(self) -> None:
        """The reader leaves. Cancels on the replica what has not ended; safe to call again."""
        self._unread.clear()
        if not self.ended:
            self.ended = True
            self._leave()


class PeerBroke(Exception):
    """The replica broke the rules of the session; says which."""


def expired() -> SeamError:
    return SeamError(Reason.DEADLINE_EXPIRED, "the deadline passed before the answer was whole")
