"""One replica in the same process: every kind of work, there and back."""

from contextlib import aclosing

import pytest
from business_svc.domain.inference import (
    Accepted,
    Context,
    EmbedRequest,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    ScoreInput,
    ScoreRequest,
    StopConditions,
    Tokens,
)
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.pool import Pool
from support.duplex import ScriptedReplica, answer_of, text_of_answer


@pytest.fixture(params=[False, True], ids=["frozen messages", "serialised"])
def serialize(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_a_generation_is_accepted_streamed_and_finished(serialize: bool) -> None:
    replica = ScriptedReplica()
    async with Pool([InProcessConnector(replica.serve, serialize=serialize)]) as pool:
        request = GenerateRequest("chat", (Message("user", "hello"),), stop=StopConditions(max_output_tokens=200))
        async with aclosing(pool.generate(request, Context())) as events:
            seen = [event async for event in events]
    assert isinstance(seen[0], Accepted)
    ids = [one for event in seen if isinstance(event, Tokens) for one in event.ids]
    text = "".join(event.text for event in seen if isinstance(event, Tokens))
    assert ids == answer_of("hello", 200)
    assert text == text_of_answer(ids)
    last = seen[-1]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.LENGTH
    assert last.usage.output_token_count == 200
    assert [type(event) for event in seen].count(Finished) == 1


async def test_embeddings_come_in_the_order_of_the_texts(serialize: bool) -> None:
    replica = ScriptedReplica()
    async with Pool([InProcessConnector(replica.serve, serialize=serialize)]) as pool:
        answer = await pool.embed(EmbedRequest("embed", ("a", "bb", "ccc")), Context())
    assert [one.values[0] for one in answer.embeddings] == [1.0, 2.0, 3.0]
    assert answer.usage.input_token_count == 3


async def test_scores_come_in_the_order_of_the_inputs(serialize: bool) -> None:
    replica = ScriptedReplica()
    async with Pool([InProcessConnector(replica.serve, serialize=serialize)]) as pool:
        answer = await pool.score(ScoreRequest("score", (ScoreInput("a"), ScoreInput("bb", "x"))), Context())
    assert [one.labels[0].score for one in answer.scores] == [1.0, 2.0]


async def test_models_and_replicas_are_told_as_welcomed() -> None:
    replica = ScriptedReplica("first")
    async with Pool([InProcessConnector(replica.serve)]) as pool:
        await pool.ready()
        assert [model.name for model in pool.models()] == ["chat", "embed", "score"]
        assert all(model.ready for model in pool.models())
        assert [one.replica_id for one in pool.replicas()] == ["first"]
