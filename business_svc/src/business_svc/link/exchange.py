"""One live request on one session: where its events wait for the reader, and what the reader may still get."""

import asyncio
from collections import deque
from collections.abc import Callable

from seam.inference.v1.session_pb2 import Event

from business_svc.domain.inference import Tokens
from business_svc.errors import Reason, SeamError
from business_svc.link.credits import Credits
from business_svc.link.inference_wire import Failed, News, news_of

_ENDS = ("finished", "failed")
_MOST_TOKEN_BYTES = 16 * 1024  # of one token with its text, what was held back before it, and its alternatives
_MOST_RESULT_BYTES = 4 * 1024 * 1024  # of one vector, or of the scores of one input


class Exchange:
    """Made by a session, read by one task. Its last news is Finished or Failed, exactly once.

    A peer that keeps the rules fills it no further than: tokens up to credits, one vector or score for each text that
    was asked (`result_count`), one acceptance, one end. One that does not keep them is found out before it fills more.
    """

    __slots__ = (
        "_arrived",
        "_credits",
        "_deadline",
        "_grant",
        "_leave",
        "_results",
        "_results_missing",
        "_unread",
        "ended",
        "model",
        "seen",
    )

    def __init__(
        self,
        model: str,
        credits: Credits | None,
        result_count: int,
        grant: Callable[[int], None],
        leave: Callable[[], None],
    ) -> None:
        self.model = model
        self.seen = False  # whether the replica has answered anything: its load then counts this request
        self._credits = credits
        self._results = result_count
        self._results_missing = set(range(result_count))
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
        ends = which in _ENDS
        if self.ended:
            return ends
        if which is None:
            raise PeerBroke("an event that says nothing known here")
        if first != (which == "accepted") and which != "failed":
            raise PeerBroke("a request was accepted twice" if which == "accepted" else f"{which} before accepted")
        count = self._check(which, event)
        self._put(event, count, ends)
        return ends

    def deliver_tokens(self, tokens: Tokens) -> None:
        """As `deliver`, of what came in columns. Raises CreditsOverdrawn, PeerBroke."""
        if not self.seen:
            raise PeerBroke("tokens before accepted")
        if self.ended:
            return
        self._take_credits(len(tokens.ids), len(tokens.text))
        self._put(tokens, len(tokens.ids), ends=False)

    def _check(self, which: str, event: Event) -> int:
        """The number of tokens."""
        match which:
            case "tokens":
                told = event.tokens
                self._take_credits(len(told.ids), told.ByteSize())
                return len(told.ids)
            case "vectors":
                self._take_results([one.index for one in event.vectors.embeddings], event.ByteSize())
            case "scores":
                self._take_results([one.index for one in event.scores.scores], event.ByteSize())
            case "finished" if self._results_missing:
                raise PeerBroke(f"{len(self._results_missing)} of {self._results} results are missing at the end")
        return 0

    def _take_credits(self, count: int, size: int) -> None:
        if self._credits is None:
            raise PeerBroke("tokens came for a request that generates none")
        if count < 1:
            raise PeerBroke("tokens of no ids")
        if size > _MOST_TOKEN_BYTES * count:
            raise PeerBroke(f"{size} bytes for {count} tokens")
        self._credits.received(count)

    def _take_results(self, indexes: list[int], size: int) -> None:
        if size > _MOST_RESULT_BYTES * len(indexes):
            raise PeerBroke(f"{size} bytes for {len(indexes)} results")
        for index in indexes:
            if index not in self._results_missing:
                raise PeerBroke(f"a result for text {index}, which was not asked or has one")
            self._results_missing.remove(index)

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
