"""One request on its way from replica to replica, until it has one answer. Decides; waits for nothing."""

from dataclasses import dataclass, replace
from enum import Enum

from business_svc.domain.inference import Accepted, Finished, Timings, Tokens, Usage
from business_svc.errors import Reason, SeamError


class Next(Enum):
    """What to do after a replica failed the request."""

    MOVE = "move"  # its replica went away: that is no fault of the request, nor a load on the others
    RETRY = "retry"  # its replica refused: another may take it, if the retry budget allows
    GIVE_UP = "give up"


# A model that is not found where it was a moment ago was unloaded while the request was on its way there.
_ELSEWHERE = frozenset({Reason.MODEL_NOT_READY, Reason.QUEUE_FULL, Reason.MODEL_NOT_FOUND})
_LOST = frozenset({Reason.REPLICA_LOST, Reason.ENGINE_STOPPED})


def verdict(error: SeamError) -> Next:
    if error.reason in _LOST or error.reason is Reason.DRAINING:
        return Next.MOVE
    if error.retry_after is not None or error.reason in _ELSEWHERE:
        return Next.RETRY
    return Next.GIVE_UP


@dataclass(slots=True)
class _Leg:
    """The stay at one replica, as this side saw it."""

    began: float
    first: float | None = None
    last: float | None = None


class Journey:
    """Laws: Accepted is told once; the ids told are each told once, in order; one end; after `most_deaths` replicas
    died with it in flight it goes nowhere."""

    def __init__(self, most_deaths: int, now: float) -> None:
        self.given: list[int] = []
        self.avoided: set[str] = set()
        self.refusal: SeamError | None = None  # the last, to tell if nobody takes it
        self._most_deaths = most_deaths
        self._deaths = 0
        self._began = now
        self._leg = _Leg(now)
        self._past = Timings()
        self._accepted: Accepted | None = None
        self._given_before = 0

    @property
    def started(self) -> bool:
        """Whether the reader has tokens: from then on it must not see a failure that another replica can mend."""
        return bool(self.given)

    @property
    def departed(self) -> bool:
        """Whether a replica has taken it: then the model is known, wherever it is now."""
        return self._accepted is not None

    def departs(self, now: float) -> None:
        """It goes to a replica, with the ids given so far."""
        self._leg = _Leg(now)
        self._given_before = len(self.given)

    def accepted(self, news: Accepted) -> bool:
        """Returns whether to tell the reader."""
        if self._accepted is not None:
            return False
        self._accepted = news
        return True

    def tokens(self, news: Tokens, now: float) -> None:
        self.given.extend(news.ids)
        if self._leg.first is None:
            self._leg.first = now
        self._leg.last = now

    def finished(self, news: Finished, now: float) -> Finished:
        """The end of the whole answer: what all replicas made of it."""
        usage, told = news.usage, news.timings
        inputs = usage.input_token_count
        if self._given_before and self._accepted is not None:
            inputs = self._accepted.input_token_count  # a resumed request's input holds what was given before
        return replace(
            news,
            usage=Usage(
                input_token_count=inputs,
                output_token_count=self._given_before + usage.output_token_count,
                cached_token_count=min(usage.cached_token_count, inputs),
            ),
            timings=Timings(
                queue=self._past.queue + told.queue,
                prefill=self._past.prefill + told.prefill,
                decode=self._past.decode + told.decode,
                total=now - self._began,
            ),
        )

    def failed(self, address: str, error: SeamError, now: float) -> Next:
        """A replica ended it badly. Raises POISON_REQUEST when it has been there at too many deaths."""
        self._close_leg(now)
        decision = verdict(error)
        if error.reason in _LOST:
            self._deaths += 1
            if self._deaths >= self._most_deaths:
                raise SeamError(
                    Reason.POISON_REQUEST, f"{self._deaths} replicas died with this request in flight"
                ) from error
        elif decision is Next.RETRY:
            self.avoided.add(address)
            self.refusal = error
        return decision

    def _close_leg(self, now: float) -> None:
        """A lost replica tells no timings: until its first token counts as queued, from there as decoding."""
        leg = self._leg
        first = now if leg.first is None else leg.first
        last = first if leg.last is None else leg.last
        past = self._past
        self._past = replace(past, queue=past.queue + first - leg.began, decode=past.decode + last - first)
