"""Packed steps give each request the tokens that the model gives it alone."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
import torch
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.requests import Generation
from support.driving import Driver, generation, resumed
from support.generation_models import ARCHITECTURES, build_model
from transformers import PreTrainedModel

_NEAR_TIE = 1e-4
_PROMPT_LENGTHS = (3, 9, 17, 30, 45, 1, 70, 12)


@dataclass(slots=True, eq=False)
class Served:
    plain: PreTrainedModel
    runner: PackedGenerationRunner
    asked: dict[str, Generation]
    expected: dict[str, list[int]]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    torch.set_num_threads(1)
    plain = build_model(request.param)
    runner = PackedGenerationRunner(build_model(request.param), slot_count=8, max_context_tokens=128)
    whims = random.Random(3)
    asked = {
        f"r{index}": generation([whims.randrange(4, 500) for _ in range(length)], whims.randint(4, 14))
        for index, length in enumerate(_PROMPT_LENGTHS)
    }
    expected = {name: _generate(plain, each) for name, each in asked.items()}
    assert len({tuple(ids) for ids in expected.values()}) == len(asked), "answers must tell prompts apart"
    return Served(plain, runner, asked, expected)


def _generate(model: PreTrainedModel, asked: Generation) -> list[int]:
    ids = torch.tensor([asked.prompt_ids])
    with torch.inference_mode():
        answer = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=asked.max_output_tokens, do_sample=False
        )
    return answer[0, ids.shape[1] :].tolist()


def _near_ties(served: Served, found: Mapping[str, list[int]]) -> int:
    """How many answers leave the reference at a near tie; fails if one does elsewhere."""
    count = 0
    for name, ids in found.items():
        expected = served.expected[name]
        if ids == expected:
            continue
        assert len(ids) == len(expected)
        first = next(index for index, pair in enumerate(zip(ids, expected, strict=True)) if pair[0] != pair[1])
        seen = torch.tensor([[*served.asked[name].prompt_ids, *expected[:first]]])
        with torch.inference_mode():
            best = served.plain(input_ids=seen, attention_mask=torch.ones_like(seen)).logits[0, -1].topk(2).values
        gap = float(best[0] - best[1])
        assert gap < _NEAR_TIE, f"{name} differs at token {first}, where the gap is {gap}"
        count += 1
    return count


Tell = Callable[[str, object], None]


def _check(served: Served, driver: Driver, record_property: Tell) -> None:
    found = {name: each.output_ids for name, each in driver.run(served.asked).items()}
    near_ties = _near_ties(served, found)
    record_property("near_ties", near_ties)
    assert near_ties <= 1, f"{near_ties} of {len(found)} answers left the reference at near ties"


def test_a_request_alone_equals_generate(served: Served, record_property: Tell) -> None:
    _check(served, Driver(served.runner, at_once=1), record_property)


def test_requests_mixed_at_once_equal_generate(served: Served, record_property: Tell) -> None:
    _check(served, Driver(served.runner), record_property)


def test_chunked_prompts_equal_generate(served: Served, record_property: Tell) -> None:
    _check(served, Driver(served.runner, chunk=7), record_property)


def test_requests_that_join_leave_and_are_put_off_equal_generate(served: Served, record_property: Tell) -> None:
    driver = Driver(served.runner, chunk=16, whims=random.Random(11))
    _check(served, driver, record_property)
    assert driver.put_off_count > 0


def test_requests_resumed_at_every_position_equal_generate(served: Served, record_property: Tell) -> None:
    near_ties = 0
    for at in range(1, max(len(ids) for ids in served.expected.values())):
        again = {
            name: resumed(each, served.expected[name][:at])
            for name, each in served.asked.items()
            if at < len(served.expected[name])
        }
        found = {name: each.output_ids for name, each in Driver(served.runner, chunk=40).run(again).items()}
        near_ties += _near_ties(served, found)
    record_property("near_ties", near_ties)
    assert near_ties <= 1, f"{near_ties} resumed answers left the reference at near ties"
