"""Answers that must have a form have it, and end with it, whichever way business and inference are joined."""

import asyncio
import json
import re
from dataclasses import replace

import pytest
from business_svc.domain.inference import Choice, FinishReason, JsonSchema, OutputFormat, Regex
from contract.asking import answer, asked, expected_ids
from contract.conftest import World

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["a", "bc"]}},
    "required": ["n", "kind"],
    "additionalProperties": False,
}
TEXTS = ("yes", "no", "it depends")


async def test_a_schema_holds_and_its_end_is_the_answer_s(world: World) -> None:
    request = replace(asked("tell me", 400, temperature=1.0, seed=5), format=JsonSchema(json.dumps(SCHEMA)))
    got = await answer(world.pool, request)
    told = json.loads(got.text)
    assert told["kind"] in ("a", "bc")
    assert 0 <= told["n"] <= 99
    assert got.finished.reason is FinishReason.STOP
    assert len(got.ids) == len(got.text), "nothing is computed behind the closing brace"


async def test_a_pattern_and_a_choice_hold(world: World) -> None:
    pattern = r"[a-c]{2}-\d{3}(x|yy)"
    formats: list[OutputFormat] = [Regex(pattern), Choice(TEXTS)]
    asking = [
        replace(asked(f"question {n}", 40, temperature=1.0, seed=n + 1), format=formats[n % 2]) for n in range(16)
    ]
    answers = await asyncio.gather(*(answer(world.pool, each) for each in asking))
    assert {got.finished.reason for got in answers} == {FinishReason.STOP}
    assert all(re.fullmatch(pattern, got.text) for got in answers[::2])
    assert {got.text for got in answers[1::2]} <= set(TEXTS)


async def test_neighbours_without_a_format_are_answered_as_if_alone(world: World) -> None:
    plain = [asked(f"question {n}", 24, temperature=1.0, seed=n + 1) for n in range(6)]
    formed = [replace(each, format=Regex("[a-f]{24}")) for each in plain]
    answers = await asyncio.gather(*(answer(world.pool, each) for each in (*plain, *formed)))
    for request, got in zip(plain, answers, strict=False):
        assert got.ids == expected_ids(world.runner, request, 24)


@pytest.mark.parametrize(("most", "reason"), [(5, FinishReason.LENGTH), (6, FinishReason.STOP)])
async def test_an_answer_cut_by_its_length_says_so(world: World, most: int, reason: FinishReason) -> None:
    got = await answer(world.pool, replace(asked("cut", most), format=Regex("abcdef")))
    assert (got.text, got.finished.reason) == ("abcdef"[:most], reason)
