"""Decides what each generation step computes. Pure: facts come in as calls, decisions go out as values."""

import heapq
from collections.abc import Sequence as Many

from inference_svc.engine.cache_room import CacheRoom
from inference_svc.engine.costs import StepCosts
from inference_svc.engine.plans import GenerationLimits, Placement, SchedulerFacts, Step
from inference_svc.engine.prompt_share import share_prompt_room
from inference_svc.engine.runner import Row, SampledToken, Sharing, TextDecoder
from inference_svc.engine.sequence import Phase, Sequence
from inference_svc.engine.text_assembler import SilentTokens
from inference_svc.engine.waiting_count import WaitingCount
from inference_svc.engine.waiting_line import OVERDUE, Entry, WaitingLine
from inference_svc.errors import (
    DeadlineExpired,
    DeadlineInfeasible,
    InternalFault,
    InvalidField,
    NumericalFault,
    SeamError,
)
from inference_svc.requests import Event, Failed, Finished, Generation

_GROWTH = 8  # tokens of cache left free for each running sequence when another is let in


class GenerationScheduler:
    """One turn is: expire, take_closed (close what it says), place (open what it says, close what take_closed says
    first), next_step, commit.

    A sequence without credits is not scheduled. It keeps its slot until somebody needs it, is then put off, and is
    computed again when it has credits; so is one of lower priority than whoever waits, and the least of all when the
    cache is full.
    """

    def __init__(
        self, limits: GenerationLimits, decoder: TextDecoder, costs: StepCosts, sharing: Sharing | None = None
    ) -> None:
        """`sharing` tells of the cache, where its blocks may be held by several; it is read in `place` and `facts`."""
        self._limits = limits
        self._room = CacheRoom(limits.cache_token_count, limits.cache_block_tokens, sharing)
        self.token_budget = limits.step_token_budget  # the driver lowers it after a step that was too big
        self._decoder = decoder
        self._silent = SilentTokens(decoder)
        self._costs = costs
        self._alive: dict[int, Sequence] = {}
        self._placed: dict[int, Sequence] = {}
        self._line: WaitingLine[Sequence] = WaitingLine(limits.tenant_weights, limits.aging_steps)
        self._waiting = WaitingCount()
        self._stalled = WaitingCount()  # of these, those that wait for their readers
        self._free_slots = list(range(limits.slot_count - 1, -1, -1))
        self._closed: list[int] = []
        self._deadlines: list[tuple[float, int]] = []
        self._step = 0
        self._arrivals = 0
        self._stalls = 0

    # --- facts in ---------------------------------------------------------------------------------------------------

    def submit(self, key: int, generation: Generation, now: float) -> Finished | None:
        """Returns the end where the resumed ids are a whole answer already; the sequence is then not taken.
        Whether there is room for it was decided at the door."""
        sequence = Sequence(key, generation, self._decoder, self._silent, self._arrivals, now)
        self._arrivals += 1
        ended = sequence.replay_resumed(now)
        if ended is not None:
            return ended
        self._alive[key] = sequence
        for moment in (generation.context.deadline, generation.context.first_token_deadline):
            if moment is not None:
                heapq.heappush(self._deadlines, (moment, key))
        self._wait(sequence)
        return None

    def remove(self, key: int) -> bool:
        """Forget a sequence, wherever it is; its slot is free. False where it was over or never known."""
        sequence = self._alive.get(key)
        if sequence is not None:
            self._end(sequence)
        return sequence is not None

    def grant(self, key: int, credits: int) -> None:
        """Unknown keys, and sequences without a limit, are ignored."""
        sequence = self._alive.get(key)
        if sequence is None or sequence.credits is None:
            return
        sequence.credits += credits
        if sequence.phase is Phase.STALLED:
            self._drop(sequence)
            self._wait(sequence)

    def expire(self, now: float) -> list[tuple[int, Failed]]:
        """End what is past its deadline, waiting or running."""
        ended: list[tuple[int, Failed]] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, key = heapq.heappop(self._deadlines)
            sequence = self._alive.get(key)
            if sequence is not None and sequence.deadline is not None and sequence.deadline <= now:
                where = "after" if sequence.first_token is not None else "before"
                ended.append((key, Failed(DeadlineExpired(f"the deadline passed {where} the first token"))))
                self._end(sequence)
        return ended

    # --- decisions out ----------------------------------------------------------------------------------------------

    def place(self, now: float) -> tuple[list[Placement], list[tuple[int, Failed]]]:
        """Who gets a slot, and who is turned away because its answer can no longer come in time."""
        self._line.age(self._step)
        placements: list[Placement] = []
        refused: list[tuple[int, Failed]] = []
        self._make_cache_room()
        while (entry := self._line.head()) is not None:
            sequence = entry.waiter
            if self._is_too_late(sequence, now):
                why = "the deadline would pass before the answer is whole"
                refused.append((sequence.key, Failed(DeadlineInfeasible(why, retry_after=self._costs.seconds_in_slot))))
                self._end(sequence)
            elif self._make_room_for(entry):
                self._line.pop()
                placements.append(self._put(entry, now))
            elif not placements and not self._closed and self._fits_by_sharing(sequence):
                self._line.pop()
                placements.append(self._put(entry, now))
                break  # what it counts on must stay held until it is open
            else:
                break
        return placements, refused

    def opened(self, key: int, reused_tokens: int) -> None:
        """The slot is open, and holds the first `reused_tokens` of the sequence already."""
        sequence = self._placed[key]
        sequence.cached = reused_tokens
        if sequence.first_token is None:
            sequence.reused_tokens = reused_tokens

    def prompting(self) -> list[tuple[int, int]]:
        """Key and slot of those whose prompts are not computed: another sequence may have computed their beginning."""
        return [
            (sequence.key, sequence.slot)
            for sequence in self._placed.values()
            if sequence.pending > 1 and sequence.slot is not None
        ]

    def found(self, key: int, held_tokens: int) -> None:
        """The slot of one that is `prompting` holds the first `held_tokens` of the sequence by now."""
        sequence = self._placed[key]
        if held_tokens > sequence.cached:
            if sequence.first_token is None:
                sequence.reused_tokens += held_tokens - sequence.cached
            sequence.cached = held_tokens

    def take_closed(self) -> list[int]:
        """Slots that were left since the last call. They must be closed before any is opened."""
        closed, self._closed = self._closed, []
        self._room.closed()
        return closed

    def next_step(self, now: float) -> Step | None:
        """None: nothing can be computed now. Sequences that decode come first, then chunks of prompts."""
        ready = [sequence for sequence in self._placed.values() if sequence.has_credit]
        if not ready:
            return None
        self._step += 1
        decoding: list[Sequence] = []
        prompting: list[Sequence] = []
        for sequence in ready:
            (decoding if sequence.is_decoding else prompting).append(sequence)
        kept = max(1, self.token_budget // 8) if prompting and self.token_budget > 1 else 0
        if len(decoding) > self.token_budget - kept:
            decoding.sort(key=lambda sequence: sequence.served_step)
            decoding = decoding[: self.token_budget - kept]
        shares = share_prompt_room(self._prompt_room(len(decoding)), self._in_order(prompting))
        chosen = [(sequence, 1) for sequence in decoding] + shares
        charges: dict[str, int] = {}
        for sequence, count in chosen:
            sequence.served_step = self._step
            tenant = sequence.generation.context.tenant
            charges[tenant] = charges.get(tenant, 0) + count
        for tenant, tokens in charges.items():
            self._line.charge(tenant, tokens)
        rows = tuple(_row(sequence, count) for sequence, count in chosen)
        keys = tuple(sequence.key for sequence, _ in chosen)
        return Step(rows, keys, sum(count for _, count in shares), len(decoding), now)

    def commit(self, step: Step, sampled: Many[SampledToken | SeamError | None], now: float) -> list[tuple[int, Event]]:
        """What came of a step: a token, nothing, or the error of that row alone."""
        events: list[tuple[int, Event]] = []
        for key, row, result in zip(step.keys, step.rows, sampled, strict=True):
            sequence = self._placed.get(key)
            if sequence is None:
                continue  # it ended while the step was computed
            if isinstance(result, SeamError):
                events.append((key, Failed(result)))
                self._end(sequence)
                continue
            sequence.cached = row.start + len(row.token_ids)
            if sequence.first_computed is None:
                sequence.first_computed = step.began
            if result is not None:
                events += [(key, event) for event in self._take(sequence, result, now)]
        return events

    def take_stalls(self) -> int:
        """How often, since the last call, a sequence used its last credit with more to say."""
        stalls, self._stalls = self._stalls, 0
        return stalls

    def next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._alive:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    @property
    def is_idle(self) -> bool:
        return not self._alive

    @property
    def has_work(self) -> bool:
        """False where all that lives waits for credits."""
        return bool(self._line) or any(sequence.has_credit for sequence in self._placed.values())

    @property
    def keys(self) -> tuple[int, ...]:
        return tuple(self._alive)

    def facts(self) -> SchedulerFacts:
        held = backlog = 0
        holding = [0] * OVERDUE  # slots that a priority cannot take
        for sequence in self._placed.values():
            if not sequence.is_decoding:
                backlog += sequence.pending
            if sequence.has_credit:
                holding[min(sequence.placed_class, OVERDUE - 1)] += 1
        yielding: list[int] = []
        for priority in range(OVERDUE - 1, -1, -1):
            held += holding[priority]
            yielding.append(self._limits.slot_count - held)
        return SchedulerFacts(
            running=len(self._placed),
            waiting=self._waiting.snapshot(),
            stalled=self._stalled.snapshot(),
            backlog_tokens=backlog,
            free_cache_tokens=min(max(0, self._room.free(self._placed.values())), self._limits.cache_token_count),
            yielding=tuple(reversed(yielding)),
        )

    # --- inside -----------------------------------------------------------------------------------------------------

    def _take(self, sequence: Sequence, sampled: SampledToken, now: float) -> list[Event]:
        if not sampled.finite:
            self._end(sequence)
            return [Failed(NumericalFault("the model's output was not a finite number"))]
        if sampled.fault:
            self._end(sequence)
            return [Failed(InvalidField.of_field("work.format", sampled.fault))]
        try:
            tokens, finished = sequence.take(sampled, now)
        except Exception as error:
            self._end(sequence)
            return [Failed(_caused(InternalFault("the token could not be turned into text"), error))]
        if finished is None:
            self._stalls += not sequence.has_credit
            return [tokens]
        self._end(sequence)
        self._costs.left_slot(now - sequence.placed_at, sequence.output_count - sequence.placed_outputs)
        return [tokens, finished]

    def _wait(self, sequence: Sequence) -> None:
        self._waiting.add(sequence.generation.context.priority, sequence.pending)
        if not sequence.has_credit:
            sequence.phase = Phase.STALLED
            self._stalled.add(sequence.generation.context.priority, sequence.pending)
            return
        sequence.phase = Phase.WAITING
        context, deadline = sequence.generation.context, sequence.deadline
        self._line.push(
            sequence,
            key=sequence.key,
            priority=context.priority,
            tenant=context.tenant,
            step=self._step,
            rank=float("inf") if deadline is None else deadline,
            order=sequence.order,
        )

    def _drop(self, sequence: Sequence) -> None:
        """It waits no longer."""
        self._waiting.drop(sequence.generation.context.priority, sequence.pending)
        if sequence.phase is Phase.STALLED:
            self._stalled.drop(sequence.generation.context.priority, sequence.pending)

    def _put(self, entry: Entry[Sequence], now: float) -> Placement:
        sequence = entry.waiter
        self._drop(sequence)
        sequence.slot = self._free_slots.pop()
        sequence.phase = Phase.PLACED
        sequence.placed_class, sequence.placed_at, sequence.served_step = entry.wait_class, now, self._step
        sequence.placed_outputs = sequence.output_count
        self._placed[sequence.key] = sequence
        return Placement(sequence.key, sequence.slot, sequence.generation_so_far())

    def _put_off(self, sequence: Sequence) -> None:
        self._leave_slot(sequence)
        self._wait(sequence)

    def _leave_slot(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self._room.leaves(sequence)
        del self._placed[sequence.key]
        self._closed.append(sequence.slot)
        self._free_slots.append(sequence.slot)
        sequence.slot, sequence.cached = None, 0

    def _end(self, sequence: Sequence) -> None:
        del self._alive[sequence.key]
        match sequence.phase:
            case Phase.PLACED:
                self._leave_slot(sequence)
            case Phase.WAITING | Phase.STALLED:
                self._line.remove(sequence.key)
                self._drop(sequence)
        sequence.phase = Phase.OVER
        if len(self._deadlines) > 4 * len(self._alive) + 64:
            self._deadlines = [each for each in self._deadlines if each[1] in self._alive]
            heapq.heapify(self._deadlines)

    def _is_too_late(self, sequence: Sequence, now: float) -> bool:
        """Never where nothing runs: a guess must not keep an idle device from learning better."""
        if sequence.deadline is None or not self._placed:
            return False
        if now + self._costs.seconds_of_prompts(sequence.pending) > sequence.deadline:
            return True
        whole = sequence.generation.context.deadline
        if whole is None or sequence.first_token is not None:  # what was begun is finished if it can be
            return False
        left = sequence.generation.max_output_tokens - sequence.output_count
        return now + self._costs.seconds_of_answer(left, -1.0) > whole

    def _make_room_for(self, entry: Entry[Sequence]) -> bool:
        """Free a slot and cache for the next in line, if whoever yields to it holds enough of both."""
        sequence = entry.waiter
        priority = sequence.generation.context.priority
        yielding = [each for each in self._placed.values() if not each.has_credit or each.placed_class < priority]
        yielding.sort(key=lambda each: (each.has_credit, each.placed_class, each.cached))
        free = self._room.free(self._placed.values())
        going: list[Sequence] = []
        while not self._fits(sequence, free, len(self._placed) - len(going), len(self._free_slots) + len(going)):
            if len(going) == len(yielding):
                return False
            going.append(yielding[len(going)])
            free += self._room.freed_by(going[-1])
        for each in going:
            self._put_off(each)
        return True

    def _fits(self, sequence: Sequence, free_tokens: int, placed: int, free_slots: int) -> bool:
        return free_slots > 0 and self._room.needed_by(sequence) + _GROWTH * placed <= free_tokens

    def _fits_by_sharing(self, sequence: Sequence) -> bool:
        free = self._room.free(self._placed.values()) + self._room.shared_at_once(sequence)
        return self._fits(sequence, free, len(self._placed), len(self._free_slots))

    def _make_cache_room(self) -> None:
        """Where running sequences have outgrown the cache, the least of them is put off: without credits first, then
        the lowest class, then the latest to come."""
        free = self._room.free(self._placed.values())
        while free < 0:
            least = min(self._placed.values(), key=lambda each: (each.has_credit, each.placed_class, -each.order))
            free += self._room.freed_by(least)
            self._put_off(least)

    def _prompt_room(self, decode_rows: int) -> int:
        room = self.token_budget - decode_rows
        bound = self._limits.prompt_tokens_per_step
        return room if bound is None or not decode_rows else min(room, bound)

    def _in_order(self, prompting: list[Sequence]) -> list[Sequence]:
        """Class, raised by steps without service as in the line, then deadline, then arrival."""

        def turn(sequence: Sequence) -> tuple[int, float, int]:
            unserved = (self._step - sequence.served_step) // self._limits.aging_steps
            wait_class = min(OVERDUE, sequence.placed_class + unserved)
            deadline = sequence.deadline
            if deadline is None or wait_class == OVERDUE:
                deadline = float("inf")
            return -wait_class, deadline, sequence.order

        return sorted(prompting, key=turn)


def _row(sequence: Sequence, count: int) -> Row:
    assert sequence.slot is not None
    end = sequence.cached + count
    return Row(
        slot=sequence.slot,
        start=sequence.cached,
        token_ids=tuple(sequence.ids[sequence.cached : end]),
        samples=end == len(sequence.ids),
        output_index=sequence.output_count,
    )


def _caused(error: SeamError, cause: Exception) -> SeamError:
    error.__cause__ = cause
    return error
