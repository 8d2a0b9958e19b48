"""Every architecture, in every way of being served, greedy and drawn, gives each request the tokens of `generate`.

The engine's own scheduler plans the steps, so what is held exact here is what is served.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest
import torch
from inference_svc.models.decode_graphs import CallAgain
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.paged_steps import PagedSettings
from inference_svc.models.prefix_store import BLOCK_TOKENS, PrefixSettings
from inference_svc.requests import Generation, Sampling
from support.driving import Driver, generation, resumed
from support.engine_ways import Answers, SmallCache, all_at_once, come_and_go, one_by_one
from support.generation_models import ARCHITECTURES, build_model
from support.plain_generation import PlainAnswer, plain_answer

_REQUESTS = 64
_CONTEXT = 128
_CRAMPED = 128  # tokens of cache, where not all requests fit
_LONG = ((17, 15), (9, 18), (1, 12), (30, 14), (45, 10), (70, 8), (12, 16), (16, 11))  # tokens in and out


Runners = tuple[PackedGenerationRunner, PackedGenerationRunner, PackedGenerationRunner, PackedGenerationRunner]


@dataclass(slots=True, eq=False)
class Served:
    """`sharing` keeps beginnings; the cramped ones are to be given no more than `cramped_tokens`."""

    expected: dict[str, PlainAnswer]
    runner: PackedGenerationRunner
    sharing: PackedGenerationRunner
    cramped: PackedGenerationRunner
    cramped_sharing: PackedGenerationRunner
    cramped_tokens: int

    @property
    def asked(self) -> dict[str, Generation]:
        return {name: each.asked for name, each in self.expected.items()}


def _greedy(whims: random.Random) -> Sampling:
    return Sampling(seed=0)


def _drawn(whims: random.Random) -> Sampling:
    return Sampling(
        temperature=whims.choice([0.5, 1.0, 1.5]),
        top_k=whims.choice([0, 0, 20]),
        top_p=whims.choice([1.0, 0.9]),
        min_p=whims.choice([0.0, 0.0, 0.02]),
        repetition_penalty=whims.choice([1.0, 1.3]),
        presence_penalty=whims.choice([0.0, 0.5]),
        frequency_penalty=whims.choice([0.0, -0.5]),
        logit_bias=whims.choice([{}, {40: 3.0, 41: -100.0}]),
        seed=whims.getrandbits(63),
    )


SAMPLINGS: dict[str, Callable[[random.Random], Sampling]] = {"greedy": _greedy, "drawn": _drawn}


@dataclass(frozen=True, slots=True)
class Setting:
    kind: str
    architecture: str
    sampling: str


def _slots(architecture: str) -> Runners:
    runner = PackedGenerationRunner(build_model(architecture), slot_count=_REQUESTS, max_context_tokens=_CONTEXT)
    sharing = PackedGenerationRunner(
        build_model(architecture),
        slot_count=8,
        max_context_tokens=_CONTEXT,
        prefix=PrefixSettings(16 * BLOCK_TOKENS),  # holds less than is asked for: what was used longest ago goes
    )
    return runner, sharing, runner, sharing


def _paged(architecture: str) -> Runners:
    """Decode steps go the way of recorded ones; the cramped cache has no block beyond what it is said to have."""
    alone = PagedSettings(_REQUESTS * _CONTEXT, shares=False, recorder=CallAgain())
    shared, cramped = PagedSettings(8 * _CONTEXT, recorder=CallAgain()), PagedSettings(_CRAMPED, recorder=CallAgain())
    counts = ((alone, _REQUESTS), (shared, 8), (cramped, 8))
    made = [
        PackedGenerationRunner(build_model(architecture), slot_count=slots, max_context_tokens=_CONTEXT, paged=paged)
        for paged, slots in counts
    ]
    for runner in made:
        list(runner.warm_up())
    return made[0], made[1], made[2], made[2]


@lru_cache(maxsize=1)
def _runners(kind: str, architecture: str) -> Runners:
    torch.set_num_threads(1)
    return {"slots": _slots, "paged": _paged}[kind](architecture)


@lru_cache(maxsize=2)
def _expected(architecture: str, sampling: str) -> dict[str, PlainAnswer]:
    torch.set_num_threads(1)
    plain, whims = build_model(architecture), random.Random(3)
    expected = {}
    for index in range(_REQUESTS):
        length, count = _LONG[index] if index < len(_LONG) else (whims.randint(1, 24), whims.randint(2, 4))
        prompt = [whims.randrange(4, 500) for _ in range(length)]
        asked = generation(prompt, count, sampling=SAMPLINGS[sampling](whims))
        expected[f"r{index}"] = plain_answer(plain, asked)
    answers = {tuple(each.output_ids) for each in expected.values()}
    assert len(answers) > 0.9 * _REQUESTS, "answers must tell prompts apart"
    return expected


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    asked: Setting = request.param
    runners = _runners(asked.kind, asked.architecture)
    yield Served(_expected(asked.architecture, asked.sampling), *runners, _CRAMPED)
    for runner in runners:
        assert runner.prefix_counts.held_blocks == 0
        assert runner.tokens_held_again == 0


def _few(served: Served) -> dict[str, Generation]:
    return dict(list(served.asked.items())[: len(_LONG)])


def alone(served: Served) -> Answers:
    return one_by_one(served.runner, _few(served))


def mixed_64_at_once(served: Served) -> Answers:
    return all_at_once(served.runner, served.asked)


def joining_and_leaving_at_random(served: Served) -> Answers:
    return come_and_go(served.runner, served.asked, random.Random(11))


def chunked(served: Served) -> Answers:
    counted = SmallCache(served.runner)
    answers = all_at_once(counted, _few(served), step_token_budget=13)
    assert max(map(sum, counted.steps)) <= 13
    return answers


def in_any_chunks(served: Served) -> Answers:
    driver = Driver(served.runner, chunk=16, whims=random.Random(11))
    answers = {name: each.output_ids for name, each in driver.run(_few(served)).items()}
    assert driver.put_off_count > 0
    return answers


def preempted(served: Served) -> Answers:
    small = SmallCache(served.cramped, cache_token_count=served.cramped_tokens)
    answers = all_at_once(small, _few(served))
    assert small.opened > len(_LONG), "nobody was put off"
    return answers


def resumed_at_every_position(served: Served) -> Answers:
    again = {
        f"{name} at {at}": resumed(each, served.expected[name].output_ids[:at])
        for name, each in _few(served).items()
        for at in range(1, each.max_output_tokens)
    }
    return all_at_once(served.runner, again)


def prefix_cached(served: Served) -> Answers:
    twice = {f"{name} {time}": each for name, each in _few(served).items() for time in ("first", "again")}
    before = served.sharing.prefix_counts.hit_tokens
    answers = one_by_one(served.sharing, twice)
    alike = [f"{name} {number}" for name in _few(served) for number in range(3)]
    answers |= all_at_once(served.sharing, {name: served.asked[name.partition(" ")[0]] for name in alike}, 40)
    assert served.sharing.prefix_counts.hit_tokens > before + 300
    return answers


def prefix_cached_and_preempted(served: Served) -> Answers:
    small = SmallCache(served.cramped_sharing, cache_token_count=served.cramped_tokens)
    before = served.cramped_sharing.prefix_counts.hit_tokens
    answers = all_at_once(small, _few(served))
    assert small.opened > len(_LONG), "nobody was put off"
    assert served.cramped_sharing.prefix_counts.hit_tokens > before
    return answers


def prefix_cached_and_resumed(served: Served) -> Answers:
    again = {
        f"{name} at {at}": resumed(each, served.expected[name].output_ids[:at])
        for name, each in _few(served).items()
        for at in range(1, each.max_output_tokens, 3)
    }
    before = served.sharing.prefix_counts.hit_tokens
    answers = all_at_once(served.sharing, again)
    assert served.sharing.prefix_counts.hit_tokens > before
    return answers


WAYS = (
    alone,
    mixed_64_at_once,
    joining_and_leaving_at_random,
    chunked,
    in_any_chunks,
    preempted,
    resumed_at_every_position,
    prefix_cached,
    prefix_cached_and_preempted,
    prefix_cached_and_resumed,
)


_OF_PAGED = (
    mixed_64_at_once,
    joining_and_leaving_at_random,
    in_any_chunks,
    preempted,
    prefix_cached_and_preempted,
    prefix_cached_and_resumed,
)  # what its blocks could change; the rest is the engine's and the sampler's, for which slots stand


def _cases() -> Iterator[Any]:
    for architecture in ARCHITECTURES:
        for kind, samplings, ways in (("slots", tuple(SAMPLINGS), WAYS), ("paged", ("drawn",), _OF_PAGED)):
            for sampling in samplings:
                for way in ways:
                    name = f"{kind}-{sampling}-{architecture}-{way.__name__}"
                    yield pytest.param(Setting(kind, architecture, sampling), way, id=name)


@pytest.mark.parametrize(("served", "way"), list(_cases()), indirect=["served"], scope="module")
def test_the_answer_is_that_of_generate(
    served: Served, way: Callable[[Served], Answers], record_property: Callable[[str, object], None]
) -> None:
    near_ties = _near_ties(served.expected, way(served))
    record_property("near_ties", near_ties)
    assert near_ties <= 1, f"{near_ties} answers left the reference at near ties"


def _near_ties(expected: Mapping[str, PlainAnswer], found: Answers) -> int:
    """How many answers leave the reference where rounding decides; fails if one does elsewhere."""
    count = 0
    for name, ids in found.items():
        plain = expected[name.partition(" ")[0]]
        if ids == plain.output_ids:
            continue
        assert len(ids) == len(plain.output_ids), name
        first = next(at for at, pair in enumerate(zip(ids, plain.output_ids, strict=True)) if pair[0] != pair[1])
        assert plain.is_near_tie(first), f"{name} differs at token {first}: {ids}, not {plain.output_ids}"
        count += 1
    return count
