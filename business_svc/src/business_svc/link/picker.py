"""Which replica a request goes to. Facts in, a decision out: no clock, no waiting, no queue."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from business_svc.link.outliers import Outliers, OutlierSettings
from business_svc.link.prefix import Prefix, PrefixMap


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a replica that serves the model.

    `predicted_wait` is seconds as its last frame told; `unseen` are requests sent since, which that load does not
    count. `open` is false while it is gone or draining; `full` when it can hold no more of our requests."""

    address: str
    open: bool = True
    full: bool = False
    hop: float = 0.0
    predicted_wait: float = 0.0
    running: int = 0
    waiting: int = 0
    step_duration: float = 0.0
    unseen: int = 0

    @property
    def wait(self) -> float:
        """Until a request sent now is first computed: what waits there, and what is on its way there."""
        each = self.predicted_wait / self.waiting if self.waiting else self.step_duration / 4
        return self.predicted_wait + self.unseen * max(each, 1e-6)

    @property
    def live(self) -> int:
        return self.running + self.waiting + self.unseen


@dataclass(frozen=True, slots=True)
class Chosen:
    address: str


@dataclass(frozen=True, slots=True)
class Overloaded:
    """Every replica that could take it refuses for now."""

    retry_after: float


@dataclass(frozen=True, slots=True)
class Nobody:
    """No replica is open."""


Decision = Chosen | Overloaded | Nobody


@dataclass(slots=True)
class _Refusal:
    until: float
    waiting: int


class Picker:
    """Laws: chooses only a replica that is open, not full, not avoided, and did not just refuse; an ejected one only
    when no other is left, one much slower than the others one time in ten. Among equal hops and caches the shortest
    wait wins, within a tolerance the fewest live sequences; a longer hop or a lost cache must be paid back by a shorter
    wait."""

    # Waits closer than this are the same: loads are as old as the last frame.
    _SAME = 0.0005
    # Seconds a prompt token until a replica has told how long one takes.
    _PREFILL = 1e-4
    # Steps this many times longer than the others' make a replica an outlier.
    _SLOW = 5
    # A cache draws requests to its replica only while that has no more live sequences than this many and times the
    # average: a prompt that all share must not crowd one replica while others idle ("bounded loads").
    _CROWD = (4, 1.25)

    def __init__(self, outliers: OutlierSettings | None = None, *, longest_refusal: float = 0.25) -> None:
        self._outliers = Outliers(outliers or OutlierSettings())
        self._prefixes = PrefixMap()
        self._refusals: dict[tuple[str, str], _Refusal] = {}
        self._longest_refusal = longest_refusal
        self._prefill: dict[str, float] = {}  # by model: seconds a prompt token, learnt from what replicas report
        self._turn = 0

    def choose(
        self,
        model: str,
        standings: Sequence[Standing],
        now: float,
        *,
        prefixes: Sequence[Prefix] = (),
        avoided: Collection[str] = (),
        chance: float = 0.0,
    ) -> Decision:
        """`chance` in [0, 1) decides whether a replica that is coming back gets this one."""
        opened = [one for one in standings if one.open and one.address not in avoided]
        if not opened:
            return Nobody()
        willing = [one for one in opened if not one.full and not self._refuses(model, one, now)]
        if not willing:
            return Overloaded(self._retry_after(model, opened, now))
        usual = _usual_step(willing)
        trusted = [one for one in willing if chance < self._share(one, usual, now)] or willing
        chosen = self._best(trusted, self._prefill.get(model, self._PREFILL), prefixes)
        self._prefixes.went_to(prefixes, chosen.address)
        return Chosen(chosen.address)

    def _best(self, standings: Sequence[Standing], prefill: float, prefixes: Sequence[Prefix]) -> Standing:
        held = self._prefixes.tokens_held
        most_live = self._CROWD[0] + self._CROWD[1] * sum(one.live for one in standings) / len(standings)
        costs = [
            one.wait + one.hop - prefill * (held(prefixes, one.address) if one.live <= most_live else 0)
            for one in standings
        ]
        least = min(costs)
        first = standings[costs.index(least)]
        same = [
            one
            for one, cost in zip(standings, costs, strict=True)
            if cost <= least + self._SAME and one.hop <= first.hop
        ]
        fewest = min(one.live for one in same)
        ties = [one for one in same if one.live == fewest]
        self._turn += 1
        return ties[self._turn % len(ties)]

    def _share(self, one: Standing, usual_step: float, now: float) -> float:
        """Of the requests that would go there. A slow one keeps a tenth, by which it shows that it is quick again."""
        share = self._outliers.share(one.address, now)
        slow = one.step_duration > self._SLOW * usual_step > 0
        return min(share, 0.1) if slow else share

    # --- what is learnt ---

    def refused(self, model: str, standing: Standing, now: float, retry_after: float | None) -> None:
        """It said that its queue is full. Others are asked until its time is up or its queue is shorter."""
        pause = min(self._longest_refusal, self._longest_refusal if retry_after is None else retry_after)
        self._refusals[standing.address, model] = _Refusal(now + pause, standing.waiting)

    def failed(self, address: str, now: float) -> None:
        """A fault of the replica: lost, or a step that failed."""
        self._outliers.failed(address, now)

    def succeeded(self, address: str, now: float) -> None:
        self._outliers.succeeded(address, now)

    def prefilled(self, model: str, tokens: int, seconds: float) -> None:
        """A replica computed so much of a prompt in so long."""
        if tokens > 0 and seconds > 0:
            known = self._prefill.get(model, self._PREFILL)
            self._prefill[model] = known + 0.05 * (min(seconds / tokens, 0.1) - known)

    def reconnected(self, address: str) -> None:
        """It may be another process than before: its caches are not counted on, its refusals are void."""
        self._prefixes.forget(address)
        for key in [key for key in self._refusals if key[0] == address]:
            del self._refusals[key]

    def forget(self, address: str) -> None:
        self.reconnected(address)
        self._outliers.forget(address)

    def _refuses(self, model: str, standing: Standing, now: float) -> bool:
        refusal = self._refusals.get((standing.address, model))
        if refusal is None:
            return False
        if now < refusal.until and standing.waiting >= refusal.waiting:
            return True
        del self._refusals[standing.address, model]
        return False

    def _retry_after(self, model: str, opened: Sequence[Standing], now: float) -> float:
        waits = []
        for one in opened:
            refusal = self._refusals.get((one.address, model))
            waits.append(max(one.wait, refusal.until - now if refusal else 0.0))
        return max(0.05, min(waits))


def _usual_step(standings: Sequence[Standing]) -> float:
    """The median, of those that have made steps; 0 where fewer than three have, and nobody can be called slow."""
    steps = sorted(one.step_duration for one in standings if one.step_duration > 0)
    return steps[len(steps) // 2] if len(steps) >= 3 else 0.0
