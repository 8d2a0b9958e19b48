"""The same errors, whichever way business and inference are joined; and each fails its own request alone."""

import asyncio
from dataclasses import replace

import pytest
from business_svc.domain.inference import (
    Choice,
    EmbedRequest,
    GenerateRequest,
    JsonSchema,
    Message,
    OutputFormat,
    Regex,
    Sampling,
    ScoreInput,
    ScoreRequest,
    StopConditions,
)
from business_svc.errors import Reason, SeamError
from contract.asking import NO_CONTEXT, answer, asked, expected_ids
from contract.conftest import World
from support.echo import NAN, POISON

CHAT = asked("hello", 8)
BAD_GENERATIONS: list[tuple[GenerateRequest, Reason, str]] = [
    (replace(CHAT, model="nobody"), Reason.MODEL_NOT_FOUND, "model"),
    (replace(CHAT, model="embed"), Reason.TASK_NOT_SUPPORTED, "work"),
    (replace(CHAT, messages=()), Reason.TEXT_EMPTY, "messages"),
    (replace(CHAT, messages=(Message("user", "z" * 600),)), Reason.INPUT_TOO_LONG, "prompt"),
    (replace(CHAT, messages=(Message("user", "z" * 70_000),)), Reason.INPUT_TOO_LONG, "prompt"),
    (replace(CHAT, messages=(Message("refused", "hi"),)), Reason.INVALID_FIELD, "messages"),
    (replace(CHAT, sampling=Sampling(temperature=-1.0)), Reason.INVALID_FIELD, "temperature"),
    (replace(CHAT, sampling=Sampling(temperature=float("nan"))), Reason.INVALID_FIELD, "temperature"),
    (replace(CHAT, sampling=Sampling(top_p=1.5)), Reason.INVALID_FIELD, "top_p"),
    (replace(CHAT, sampling=Sampling(min_p=float("inf"))), Reason.INVALID_FIELD, "min_p"),
    (replace(CHAT, sampling=Sampling(repetition_penalty=0.0)), Reason.INVALID_FIELD, "repetition_penalty"),
    (replace(CHAT, sampling=Sampling(presence_penalty=3.0)), Reason.INVALID_FIELD, "presence_penalty"),
    (replace(CHAT, sampling=Sampling(logit_bias={9999: 1.0})), Reason.INVALID_FIELD, "logit_bias"),
    (replace(CHAT, stop=StopConditions(max_output_tokens=0)), Reason.INVALID_FIELD, "max_output_tokens"),
    (replace(CHAT, stop=StopConditions(max_output_tokens=2, min_output_tokens=3)), Reason.INVALID_FIELD, "min_output"),
    (replace(CHAT, stop=StopConditions(stop_strings=("",))), Reason.INVALID_FIELD, "stop_strings"),
    (replace(CHAT, stop=StopConditions(stop_strings=("x",) * 17)), Reason.INVALID_FIELD, "stop_strings"),
    (replace(CHAT, stop=StopConditions(stop_token_ids=(258,))), Reason.INVALID_FIELD, "stop_token_ids"),
]


@pytest.mark.parametrize(
    ("request_", "reason", "field"), BAD_GENERATIONS, ids=[f"{r.name}-{f}" for _, r, f in BAD_GENERATIONS]
)
async def test_a_bad_generation_is_refused_by_field(
    world: World, request_: GenerateRequest, reason: Reason, field: str
) -> None:
    with pytest.raises(SeamError) as refusal:
        await answer(world.pool, request_)
    assert refusal.value.reason is reason
    assert any(field in violation.field for violation in refusal.value.violations), refusal.value.violations
    assert world.open_slots == 0


BAD_FORMATS = [
    (JsonSchema('{"type": "array", "uniqueItems": true}'), "work.format.json_schema", "uniqueItems"),
    (JsonSchema("[]"), "work.format.json_schema", "object"),
    (Regex("ab(c"), "work.format.regex", "unclosed group, at character 2"),
    (Regex("a" * 5000), "work.format.regex", "4096 bytes"),
    (Choice(("yes", "no", "yes")), "work.format.choice.texts[2]", "the same as the one at 0"),
]


@pytest.mark.parametrize(("output_format", "field", "why"), BAD_FORMATS)
async def test_a_bad_format_is_refused_with_its_place_before_it_is_queued(
    world: World, output_format: OutputFormat, field: str, why: str
) -> None:
    with pytest.raises(SeamError) as refusal:
        await answer(world.pool, replace(CHAT, format=output_format))
    assert refusal.value.reason is Reason.INVALID_FIELD
    ((found, description),) = [(each.field, each.description) for each in refusal.value.violations]
    assert found.endswith(field.removeprefix("work."))
    assert why in description
    assert world.open_slots == 0


@pytest.mark.parametrize(
    ("texts", "reason", "field"),
    [
        ((), Reason.TEXT_EMPTY, "texts"),
        (("fine", ""), Reason.TEXT_EMPTY, "texts[1]"),
        (("fine", "w" * 600), Reason.INPUT_TOO_LONG, "texts[1]"),
        (("t",) * 65, Reason.TOO_MANY_TEXTS, "texts"),
    ],
)
async def test_bad_texts_are_refused_by_field(world: World, texts: tuple[str, ...], reason: Reason, field: str) -> None:
    with pytest.raises(SeamError) as refusal:
        await world.pool.embed(EmbedRequest("embed", texts), NO_CONTEXT)
    assert refusal.value.reason is reason
    assert [violation.field.endswith(field) for violation in refusal.value.violations] == [True]


async def test_too_many_dimensions_are_refused(world: World) -> None:
    with pytest.raises(SeamError) as refusal:
        await world.pool.embed(EmbedRequest("embed", ("a",), dimension_count=9), NO_CONTEXT)
    assert refusal.value.reason is Reason.INVALID_FIELD
    assert "8" in refusal.value.message


async def test_an_empty_input_to_score_is_refused(world: World) -> None:
    with pytest.raises(SeamError) as refusal:
        await world.pool.score(ScoreRequest("score", (ScoreInput(""),)), NO_CONTEXT)
    assert refusal.value.reason is Reason.TEXT_EMPTY


@pytest.mark.parametrize(("poison", "reason"), [(POISON, Reason.STEP_FAILED), (NAN, Reason.NUMERICAL_FAULT)])
async def test_a_poisoned_generation_fails_alone(world: World, poison: int, reason: Reason) -> None:
    good = [asked(f"good {n}", 10, temperature=1.0, seed=n + 1) for n in range(8)]
    bad = asked("bad " + chr(poison), 10)
    results = await asyncio.gather(
        *(answer(world.pool, request) for request in [*good[:4], bad, *good[4:]]), return_exceptions=True
    )
    failure = results.pop(4)
    assert isinstance(failure, SeamError)
    assert failure.reason is reason
    for request, got in zip(good, results, strict=True):
        assert not isinstance(got, BaseException), got
        assert got.ids == expected_ids(world.runner, request, 10)


async def test_a_poisoned_text_fails_its_own_request_alone(world: World) -> None:
    requests = [EmbedRequest("embed", (f"good {n}", "also good")) for n in range(12)]
    requests[5] = EmbedRequest("embed", ("bad " + chr(POISON), "good"))
    results = await asyncio.gather(
        *(world.pool.embed(request, NO_CONTEXT) for request in requests), return_exceptions=True
    )
    assert [isinstance(result, SeamError) for result in results] == [n == 5 for n in range(12)]


async def test_errors_leave_the_session_as_it_was(world: World) -> None:
    for request, _, _ in BAD_GENERATIONS[:6]:
        with pytest.raises(SeamError):
            await answer(world.pool, request)
    good = asked("still here", 8)
    assert (await answer(world.pool, good)).ids == expected_ids(world.runner, good, 8)
