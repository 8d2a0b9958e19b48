"""The same answers, in the same order, whichever way business and inference are joined."""

import asyncio

import pytest
from business_svc.domain.inference import (
    EmbedRequest,
    FinishReason,
    ScoreInput,
    ScoreRequest,
    StopConditions,
    Task,
    Truncation,
)
from contract.asking import NO_CONTEXT, answer, asked, expected_ids
from contract.conftest import World


async def test_a_generation_gives_the_model_s_tokens_in_order(world: World) -> None:
    request = asked("tell me", 20, temperature=0.8, seed=7)
    got = await answer(world.pool, request)
    assert got.ids == expected_ids(world.runner, request, 20)
    assert got.text == bytes(got.ids).decode()
    assert got.finished.reason is FinishReason.LENGTH
    assert got.finished.usage.input_token_count == got.accepted.input_token_count
    assert got.finished.usage.output_token_count == 20


async def test_a_seed_decides_the_answer(world: World) -> None:
    first = await answer(world.pool, asked("draw", 16, temperature=1.0, seed=1))
    again = await answer(world.pool, asked("draw", 16, temperature=1.0, seed=1))
    other = await answer(world.pool, asked("draw", 16, temperature=1.0, seed=2))
    assert first.ids == again.ids != other.ids
    assert first.accepted.seed == 1


async def test_many_generations_at_once_are_each_answered_as_if_alone(world: World) -> None:
    requests = [asked(f"question {n}", 4 + n % 17, temperature=1.0, seed=n + 1) for n in range(64)]
    answers = await asyncio.gather(*(answer(world.pool, request) for request in requests))
    for n, (request, got) in enumerate(zip(requests, answers, strict=True)):
        assert got.ids == expected_ids(world.runner, request, 4 + n % 17)


async def test_a_stop_string_is_cut_and_named(world: World) -> None:
    whole = await answer(world.pool, asked("stop here", 24, temperature=1.0, seed=3))
    stop = whole.text[9:12]
    before = whole.text.index(stop)
    request = asked("stop here", 24, temperature=1.0, seed=3)
    object.__setattr__(request, "stop", StopConditions(max_output_tokens=24, stop_strings=(stop,)))
    got = await answer(world.pool, request)
    assert got.text == whole.text[:before]
    assert got.finished.reason is FinishReason.STOP_STRING
    assert got.finished.stop_string == stop


async def test_vectors_come_in_the_order_of_the_texts(world: World) -> None:
    texts = tuple(f"text number {n} " + "x" * (n * 7 % 40) for n in range(40))
    together = await world.pool.embed(EmbedRequest("embed", texts), NO_CONTEXT)
    assert len(together.embeddings) == len(texts)
    alone = [await world.pool.embed(EmbedRequest("embed", (text,)), NO_CONTEXT) for text in texts[:8]]
    for one, many in zip(alone, together.embeddings, strict=False):
        assert one.embeddings[0].values == pytest.approx(many.values)
    assert sum(v * v for v in together.embeddings[3].values) == pytest.approx(1.0, abs=1e-5)
    assert together.usage.input_token_count == sum(len(text) for text in texts)


async def test_a_text_over_the_limit_is_cut_only_where_asked(world: World) -> None:
    got = await world.pool.embed(EmbedRequest("embed", ("y" * 600, "short"), Truncation.DROP_END), NO_CONTEXT)
    assert [one.truncated for one in got.embeddings] == [True, False]
    assert got.embeddings[0].input_token_count == 512


async def test_fewer_dimensions_are_the_leading_ones_at_length_one(world: World) -> None:
    whole = (await world.pool.embed(EmbedRequest("embed", ("cut me",)), NO_CONTEXT)).embeddings[0].values
    cut = (await world.pool.embed(EmbedRequest("embed", ("cut me",), dimension_count=4), NO_CONTEXT)).embeddings[0]
    length = sum(v * v for v in whole[:4]) ** 0.5
    assert cut.values == pytest.approx([v / length for v in whole[:4]], abs=1e-5)


async def test_scores_name_their_labels_in_the_order_of_the_inputs(world: World) -> None:
    request = ScoreRequest("score", (ScoreInput("good"), ScoreInput("query", "document"), ScoreInput("good")))
    got = await world.pool.score(request, NO_CONTEXT)
    assert [label.label for label in got.scores[0].labels] == ["no", "yes"]
    assert got.scores[1] != got.scores[0]
    assert got.scores[0] == got.scores[2]


async def test_the_models_are_told_with_their_limits(world: World) -> None:
    models = {model.name: model for model in world.pool.models()}
    assert {name: model.task for name, model in models.items()} == {
        "chat": Task.GENERATE,
        "embed": Task.EMBED,
        "score": Task.SCORE,
    }
    assert models["chat"].max_context_tokens == 512
    assert models["embed"].dimension_count == 8
    assert models["score"].labels == ("no", "yes")
