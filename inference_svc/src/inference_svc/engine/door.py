"""Who may come in to wait. Pure: it knows what waits and what the last step told, and refuses by these facts."""

from dataclasses import dataclass

from inference_svc.engine.costs import StepCosts
from inference_svc.engine.waiting_count import Waiting, WaitingCount
from inference_svc.errors import CacheTooSmall, DeadlineExpired, DeadlineInfeasible, QueueFull
from inference_svc.requests import Context, Encoding, Generation, Priority

_LEAST_RETRY, _MOST_RETRY = 0.05, 30.0  # seconds
_MARGIN, _DEVIATIONS = 1.25, 2.0  # by which predictions are taken to fall short where others wait


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of what waits for one model: sequences beside those that its slots hold, and tokens. A request that alone
    exceeds them is taken when nothing waits."""

    sequences: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Need:
    """What a request brings: `tokens` are to be computed before its first result, then it takes at least
    `least_steps` more, and gives at most `most_outputs`; `cache_tokens` is the most it will hold."""

    sequences: int
    tokens: int
    least_steps: int = 0
    cache_tokens: int = 0
    most_outputs: int = 0

    @classmethod
    def of(cls, work: Generation | Encoding) -> "Need":
        match work:
            case Generation():
                prompt, given = len(work.prompt_ids), len(work.resumed_ids)
                least = max(0, work.min_output_tokens - given - 1)
                most = max(0, work.max_output_tokens - given)
                return cls(1, prompt + given, least, prompt + work.max_output_tokens, most)
            case Encoding():
                return cls(len(work.inputs), sum(len(each.token_ids) for each in work.inputs))


@dataclass(frozen=True, slots=True)
class Facts:
    """As of the last step. `slots` is None for an encoder; `yielding` and `stalled` as the scheduler tells them."""

    waiting: Waiting
    running: int = 0
    backlog_tokens: int = 0
    slots: int | None = None
    yielding: tuple[int, ...] = ()
    free_cache_tokens: int = 0
    stalled: Waiting = Waiting()  # noqa: RUF009 (frozen)


class Door:
    """`most_tokens` is what one sequence can hold; None for an encoder. `costs` belong to the model thread, which alone
    changes them; to read a number that is one step old does no harm."""

    def __init__(self, bounds: Bounds, costs: StepCosts, facts: Facts, most_tokens: int | None = None) -> None:
        self._bounds = bounds
        self._costs = costs
        self._facts = facts
        self._most_tokens = most_tokens
        self._wake_seconds: float | None = None
        self._awake_at: float | None = None
        self._waiting = WaitingCount()  # as of the last step, and all that came since
        self._new = WaitingCount()  # of these, what was not handed over yet

    @property
    def facts(self) -> Facts:
        return self._facts

    @property
    def asleep(self) -> bool:
        return self._wake_seconds is not None

    def fall_asleep(self, wake_seconds: float) -> None:
        """From now on whoever enters also waits this long, as measured, for the model to be there."""
        self._wake_seconds = wake_seconds
        self._awake_at = None

    def stir(self, now: float) -> None:
        """The model begins to wake: the wait grows shorter."""
        if self._wake_seconds is not None and self._awake_at is None:
            self._awake_at = now + self._wake_seconds

    def wake(self, facts: Facts, most_tokens: int | None) -> None:
        """The model is there again, perhaps with another cache."""
        self._wake_seconds = self._awake_at = None
        self._most_tokens = most_tokens
        self.learn(facts)

    def enter(self, need: Need, context: Context, now: float) -> None:
        """Counts the request as waiting, or raises CacheTooSmall, DeadlineExpired, QueueFull, DeadlineInfeasible."""
        self._check_cache(need)
        wait = self.predicted_wait(context.priority, now)
        self._check_bounds(need, wait)
        self._check_deadlines(need, context, wait, now)
        for count in (self._waiting, self._new):
            count.add(context.priority, need.tokens, need.sequences)

    def handed_over(self) -> None:
        """All that entered is now the scheduler's."""
        self._new = WaitingCount()

    def learn(self, facts: Facts) -> None:
        """The facts of a step that knew all that was handed over."""
        self._facts = facts
        self._waiting.set(facts.waiting)
        self._waiting.include(self._new.snapshot())

    def predicted_wait(self, priority: Priority, now: float) -> float:
        """Seconds until a request of this priority that came now would first be computed. Whoever waits for a reader
        is not before it."""
        facts, costs = self._facts, self._costs
        sequences, tokens = self._waiting.at_least(priority)
        sequences -= sum(facts.stalled.sequences[priority:])
        tokens -= sum(facts.stalled.tokens[priority:])
        wait = costs.seconds_of_prompts(facts.backlog_tokens + tokens) + self._wake_wait(now)
        if facts.slots is not None and facts.yielding:
            short = sequences + 1 - facts.yielding[priority]
            wait += max(0, short) / facts.slots * costs.seconds_in_slot
        return wait

    def _wake_wait(self, now: float) -> float:
        if self._wake_seconds is None:
            return 0.0
        return self._wake_seconds if self._awake_at is None else max(0.0, self._awake_at - now)

    def _check_cache(self, need: Need) -> None:
        if self._most_tokens is not None and need.cache_tokens > self._most_tokens:
            raise CacheTooSmall(f"{need.cache_tokens} tokens are needed, and one sequence can have {self._most_tokens}")

    def _check_bounds(self, need: Need, wait: float) -> None:
        """What holds a slot counts too, against as many more: so it does not matter how fast slots are taken."""
        if not self._waiting.sequences:
            return
        held, most = self._facts.running + self._waiting.sequences, self._bounds.sequences + (self._facts.slots or 0)
        if held + need.sequences > most or self._waiting.tokens + need.tokens > self._bounds.tokens:
            raise QueueFull(
                f"{held} sequences are held, of at most {most}, "
                f"and {self._waiting.tokens} tokens wait, of at most {self._bounds.tokens}",
                retry_after=_retry(wait / 2),
            )

    def _check_deadlines(self, need: Need, context: Context, wait: float, now: float) -> None:
        first = min((m for m in (context.first_token_deadline, context.deadline) if m is not None), default=None)
        if first is None:
            return
        if first <= now:
            raise DeadlineExpired("the deadline had passed when the request came")
        if not self._facts.running and not self._waiting.sequences and not self.asleep:
            return  # a guess must not keep an idle device from learning better
        first_token = now + wait + self._costs.seconds_of_prompts(need.tokens)
        last_token = max(
            first_token + need.least_steps * self._costs.seconds_per_decode_step,
            self._likely_end(need, wait, now),
        )
        late = first_token - first
        if context.deadline is not None:
            late = max(late, last_token - context.deadline)
        if late > 0:
            raise DeadlineInfeasible(f"the deadline would be missed by about {late:.3f} s", retry_after=_retry(late))

    def _likely_end(self, need: Need, wait: float, now: float) -> float:
        """Who must wait is told no while that is early: in an overload whoever is let in by the mean comes too late
        half of the time, and takes the device from those who would not."""
        if not wait:
            return now + self._costs.seconds_of_answer(need.most_outputs)
        return now + _MARGIN * (wait + self._costs.seconds_of_answer(need.most_outputs, _DEVIATIONS))


def _retry(seconds: float) -> float:
    return min(_MOST_RETRY, max(_LEAST_RETRY, seconds))
