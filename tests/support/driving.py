"""Drive a generation runner as an engine would, in ways that a test chooses: who is in a step, in what chunks, who is
put off and comes back."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inference_svc.engine.runner import GenerationRunner, Row, SampledToken
from inference_svc.requests import Context, Generation, Grammar, OutputDetail, Sampling


def generation(
    prompt_ids: Sequence[int],
    max_output_tokens: int,
    *,
    sampling: Sampling | None = None,
    resumed_ids: Sequence[int] = (),
    end_token_ids: Sequence[int] = (),
    min_output_tokens: int = 0,
    detail: OutputDetail | None = None,
    grammar: Grammar | None = None,
) -> Generation:
    return Generation(
        model="chat",
        context=Context(),
        credits=None,
        prompt_ids=tuple(prompt_ids),
        resumed_ids=tuple(resumed_ids),
        sampling=sampling or Sampling(seed=0),
        end_token_ids=frozenset(end_token_ids),
        stop_strings=(),
        min_output_tokens=min_output_tokens,
        max_output_tokens=max_output_tokens,
        format=None,
        detail=detail or OutputDetail(),
        grammar=grammar,
    )


def resumed(asked: Generation, output_ids: Sequence[int]) -> Generation:
    """The same request, going on behind `output_ids`."""
    return generation(
        asked.prompt_ids,
        asked.max_output_tokens,
        sampling=asked.sampling,
        resumed_ids=output_ids,
        end_token_ids=tuple(asked.end_token_ids),
        min_output_tokens=asked.min_output_tokens,
        detail=asked.detail,
        grammar=asked.grammar,
    )


@dataclass(slots=True, eq=False)
class Running:
    name: str
    asked: Generation
    slot: int = -1
    computed: int = 0
    output_ids: list[int] = field(default_factory=list)
    told: list[SampledToken] = field(default_factory=list)

    @property
    def token_ids(self) -> list[int]:
        return [*self.asked.prompt_ids, *self.output_ids]

    @property
    def is_done(self) -> bool:
        completed = bool(self.told) and (self.told[-1].completes or bool(self.told[-1].fault))
        return completed or len(self.output_ids) >= self.asked.max_output_tokens


def told_in(run: Mapping[str, Running]) -> dict[str, list[tuple[object, ...]]]:
    """All numbers that each was told, token by token: logprobs are asked for, or nothing but tokens is compared."""
    return {name: [(each.token_id, each.logprob, each.top) for each in one.told] for name, one in run.items()}


@dataclass(slots=True, eq=False)
class Driver:
    """`chunk` is the most tokens of a sequence in a step. With `whims`, sequences join late, sit steps out, are put off
    and resumed at random."""

    runner: GenerationRunner
    chunk: int = 10_000
    at_once: int = 10_000
    whims: random.Random | None = None
    put_off_count: int = 0

    def run(self, asked: Mapping[str, Generation]) -> dict[str, Running]:
        every = {name: Running(name, each, output_ids=list(each.resumed_ids)) for name, each in asked.items()}
        waiting = list(every.values())
        running: list[Running] = []
        while waiting or running:
            self._join(waiting, running)
            self._put_off(waiting, running)
            chosen = [each for each in running if self.whims is None or self.whims.random() < 0.8] or running
            if chosen:
                self._step(chosen)
            for each in [each for each in running if each.is_done]:
                self.runner.close(each.slot)
                running.remove(each)
        return every

    def _join(self, waiting: list[Running], running: list[Running]) -> None:
        taken = {each.slot for each in running}
        free = [slot for slot in range(self.runner.slot_count) if slot not in taken]
        if self.whims is not None:
            self.whims.shuffle(free)
        limit = min(self.at_once, self.runner.slot_count) - len(running)
        if self.whims is not None and running:
            limit = min(limit, self.whims.randint(0, 2))
        for slot in free[: max(limit, 0)]:
            if waiting:
                sequence = waiting.pop(0)
                sequence.slot, sequence.computed = slot, 0
                self.runner.open(slot, resumed(sequence.asked, sequence.output_ids))
                running.append(sequence)

    def _put_off(self, waiting: list[Running], running: list[Running]) -> None:
        if self.whims is not None and len(running) > 1 and self.whims.random() < 0.15:
            victim = self.whims.choice(running)
            self.runner.close(victim.slot)
            running.remove(victim)
            waiting.append(victim)
            self.put_off_count += 1

    def _step(self, chosen: list[Running]) -> None:
        rows = []
        for each in chosen:
            tokens = each.token_ids
            size = self.chunk if self.whims is None else self.whims.randint(1, self.chunk)
            part = tokens[each.computed : each.computed + size]
            samples = each.computed + len(part) == len(tokens)
            rows.append(Row(each.slot, each.computed, part, samples, len(each.output_ids)))
        for each, row, sampled in zip(chosen, rows, self.runner.step(rows), strict=True):
            each.computed += len(row.token_ids)
            if sampled is not None:
                each.output_ids.append(sampled.token_id)
                each.told.append(sampled)
