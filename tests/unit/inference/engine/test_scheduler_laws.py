"""Laws of the generation scheduler, whatever comes in whatever order. The echo runner checks the runner's own rules."""

from dataclasses import dataclass, field

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from inference_svc.engine.costs import StepCosts
from inference_svc.engine.plans import GenerationLimits
from inference_svc.engine.scheduler import GenerationScheduler
from inference_svc.errors import DeadlineExpired, DeadlineInfeasible, SeamError
from inference_svc.requests import Context, Event, Failed, Finished, Generation, Priority, Tokens
from support.echo import EchoRunner, EchoTokenizer
from support.outlets import generation

CONTEXT = 48


@dataclass
class Known:
    work: Generation
    credits: int | None
    ids: list[int] = field(default_factory=list)
    end: Finished | Failed | None = None
    cancelled: bool = False

    @property
    def lives(self) -> bool:
        return self.end is None and not self.cancelled

    def deadline(self) -> float:
        context = self.work.context
        moments = [context.deadline, None if self.ids else context.first_token_deadline]
        return min((moment for moment in moments if moment is not None), default=float("inf"))


class SchedulerLaws(RuleBasedStateMachine):
    @initialize(
        slots=st.integers(1, 4),
        budget=st.integers(2, 20),
        prompt_bound=st.one_of(st.none(), st.integers(1, 10)),
        cache_share=st.floats(0.3, 1.0),
        aging=st.integers(1, 12),
    )
    def begin(self, slots, budget, prompt_bound, cache_share, aging):
        cache = max(CONTEXT, int(slots * CONTEXT * cache_share))
        self.runner = EchoRunner(slot_count=slots, max_context_tokens=CONTEXT, cache_token_count=cache)
        self.limits = GenerationLimits(slots, cache, budget, prompt_bound, aging, {"heavy": 3.0})
        self.scheduler = GenerationScheduler(self.limits, EchoTokenizer(), StepCosts(16))
        self.known: dict[int, Known] = {}
        self.open: set[int] = set()
        self.now = 0.0

    @rule(
        prompt=st.integers(1, 30),
        count=st.integers(1, 18),
        resumed=st.integers(0, 8),
        credits=st.one_of(st.none(), st.integers(0, 6)),
        priority=st.sampled_from(Priority),
        tenant=st.sampled_from(["", "heavy", "other"]),
        left=st.one_of(st.none(), st.floats(0.5, 40.0)),
        first_left=st.one_of(st.none(), st.floats(0.5, 20.0)),
    )
    def submit(self, prompt, count, resumed, credits, priority, tenant, left, first_left):
        key = len(self.known) + 1
        context = Context(
            priority=priority,
            tenant=tenant,
            deadline=None if left is None else self.now + left,
            first_token_deadline=None if first_left is None else self.now + first_left,
        )
        whole = generation([97 + key % 20] * prompt, count=count, seed=key, context=context, credits=credits)
        given = tuple(self.runner.expected(whole, min(resumed, count - 1)))
        work = generation(whole.prompt_ids, count=count, seed=key, context=context, credits=credits, resumed=given)
        self.known[key] = Known(work, credits)
        assert self.scheduler.submit(key, work, self.now) is None

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def cancel(self, data):
        key = data.draw(st.integers(1, len(self.known) + 1))
        lives = key in self.known and self.known[key].lives
        assert self.scheduler.remove(key) == lives
        if lives:
            self.known[key].cancelled = True

    @precondition(lambda self: self.known)
    @rule(data=st.data(), credits=st.integers(1, 8))
    def grant(self, data, credits):
        key = data.draw(st.integers(1, len(self.known) + 1))
        self.scheduler.grant(key, credits)
        if key in self.known and self.known[key].credits is not None:
            self.known[key].credits += credits

    @rule(seconds=st.floats(0.1, 5.0))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(cancel=st.booleans())
    def turn(self, cancel=False):
        had_work = self.scheduler.has_work
        self.hear(self.scheduler.expire(self.now))
        assert all(known.deadline() > self.now for known in self.known.values() if known.lives)
        placements, refused = self.scheduler.place(self.now)
        self.hear(refused)
        self.close()
        for placed in placements:
            assert placed.slot not in self.open
            self.scheduler.opened(placed.key, self.runner.open(placed.slot, placed.generation) or 0)
            self.open.add(placed.slot)
        step = self.scheduler.next_step(self.now)
        if step is None:
            assert not self.scheduler.has_work
            return
        assert had_work
        assert 0 < sum(len(row.token_ids) for row in step.rows) <= self.limits.step_token_budget
        assert len(set(step.keys)) == len(step.keys) <= self.limits.slot_count
        for key in step.keys:
            assert self.known[key].lives
            assert self.known[key].credits is None or self.known[key].credits > 0
        sampled = self.runner.step(step.rows)
        if cancel:
            self.known[step.keys[0]].cancelled = self.scheduler.remove(step.keys[0])
        self.hear(self.scheduler.commit(step, sampled, self.now))
        self.close()

    def hear(self, events: list[tuple[int, Event]]) -> None:
        for key, event in events:
            known = self.known[key]
            assert known.lives, "news after the end"
            match event:
                case Tokens(ids=ids):
                    known.ids += ids
                    if known.credits is not None:
                        known.credits -= len(ids)
                        assert known.credits >= 0
                case Finished() | Failed():
                    known.end = event
                    if isinstance(event, Failed):
                        self.check_failure(known, event.error)

    def check_failure(self, known: Known, error: SeamError) -> None:
        """Nothing fails but by its deadline: when that is over, or, before anything was given, when it will be."""
        if isinstance(error, DeadlineInfeasible):
            assert not known.ids
            assert known.deadline() < float("inf")
            return
        assert isinstance(error, DeadlineExpired)
        assert known.deadline() <= self.now

    def close(self) -> None:
        for slot in self.scheduler.take_closed():
            if slot in self.open:
                self.open.remove(slot)
                self.runner.close(slot)

    @invariant()
    def it_is_idle_if_and_only_if_nothing_lives(self):
        if not hasattr(self, "known"):
            return
        living = [known for known in self.known.values() if known.lives]
        assert self.scheduler.is_idle == (not living)
        assert self.scheduler.has_work == any(known.credits is None or known.credits > 0 for known in living)
        facts = self.scheduler.facts()
        assert facts.running + sum(facts.waiting.sequences) == len(living)
        assert facts.running <= self.limits.slot_count
        assert min(*facts.waiting.sequences, *facts.waiting.tokens) >= 0
        broke = [known for known in living if known.credits is not None and known.credits <= 0]
        assert 0 <= sum(facts.stalled.sequences) <= min(len(broke), sum(facts.waiting.sequences))
        assert min(w - s for w, s in zip(facts.waiting.tokens, facts.stalled.tokens, strict=True)) >= 0
        if not sum(facts.stalled.sequences):
            assert sum(facts.stalled.tokens) == 0
        if not living:
            assert sum(facts.waiting.tokens) == 0
            assert facts.free_cache_tokens == self.limits.cache_token_count

    def teardown(self):
        """Everyone left gets credits: all end, with the tokens that they would have had alone, in bounded time."""
        if not hasattr(self, "known"):
            return
        for key in self.known:
            self.scheduler.grant(key, 100)
            if self.known[key].credits is not None:
                self.known[key].credits += 100
        for _ in range(3000):
            if self.scheduler.is_idle:
                break
            self.turn()
        assert self.scheduler.is_idle
        self.close()
        assert self.open == set() == set(self.runner.open_slots)
        for known in self.known.values():
            if isinstance(known.end, Finished):
                expected = self.runner.expected(known.work, known.work.max_output_tokens)
                assert [*known.work.resumed_ids, *known.ids] == expected
                assert known.end.usage.output_token_count == len(known.ids)
        assert self.runner.misuse == []


TestSchedulerLaws = SchedulerLaws.TestCase
TestSchedulerLaws.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
