"""One request, one call, over a real connection."""

import asyncio

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from inference_svc.wire.calls import WINDOW
from seam.inference.v1 import inference_service_pb2 as pb
from seam.inference.v1 import model_service_pb2 as model_pb

from .conftest import running


def asked(text="hello", tokens=8, **fields):
    work = {"prompt": {"text": text}, "stop": {"max_output_tokens": tokens, "ignore_end_token": True}}
    return pb.GenerateRequest(model="chat", work=work, **fields)


async def refused(call):
    """The status of a call that fails, with its details."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await (rest(call) if hasattr(call, "read") else call)
    status = await rpc_status.aio.from_call(call)
    details = {}
    for packed in status.details if status else ():
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            detail = kind()
            if packed.Unpack(detail):
                details[kind.DESCRIPTOR.name] = detail
    return failed.value.code(), details


async def test_a_generation_streams_its_events_in_order(served):
    events = [event async for event in served.inference.Generate(asked(tokens=200))]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("accepted", "finished", {"tokens"})
    assert sum(len(event.tokens.ids) for event in events) == 200
    assert len("".join(event.tokens.text for event in events)) == 200
    assert events[-1].finished.usage.output_token_count == 200


async def test_vectors_and_scores_come_in_the_order_of_the_inputs(served):
    texts = ["a", "bb", "a", "dddd"]
    embedded = await served.inference.Embed(pb.EmbedRequest(model="embed", work={"texts": texts}))
    assert [each.index for each in embedded.embeddings] == [0, 1, 2, 3]
    assert [each.input_token_count for each in embedded.embeddings] == [1, 2, 1, 4]
    assert embedded.embeddings[0].values == embedded.embeddings[2].values
    assert np.isclose(np.linalg.norm(embedded.embeddings[1].values), 1)
    scored = await served.inference.Score(
        pb.ScoreRequest(model="score", work={"inputs": [{"text": "q", "text_pair": "d"}, {"text": "q"}]})
    )
    assert [[label.label for label in each.labels] for each in scored.scores] == [["no", "yes"]] * 2


async def test_tokens_are_counted_without_a_step(served):
    prompt = {"chat": {"messages": [{"role": "user", "content": "hi"}]}}
    counted = await served.inference.CountTokens(
        pb.CountTokensRequest(model="chat", prompt=prompt, include_token_ids=True)
    )
    assert counted.token_count == len(counted.token_ids) == len("user: hi\nassistant: ")
    assert counted.max_context_tokens == 4096
    assert served.runner.step_count == 0


@pytest.mark.parametrize(
    ("request_", "code", "reason", "field"),
    [
        (asked(""), "INVALID_ARGUMENT", "TEXT_EMPTY", "work.prompt.text"),
        (asked("x" * 70_000), "INVALID_ARGUMENT", "INPUT_TOO_LONG", "work.prompt.text"),
        (asked(tokens=0), "INVALID_ARGUMENT", "INVALID_FIELD", "work.stop.max_output_tokens"),
        (pb.GenerateRequest(model="chat"), "INVALID_ARGUMENT", "TEXT_EMPTY", "work.prompt"),
        (pb.GenerateRequest(model="x", work=asked().work), "NOT_FOUND", "MODEL_NOT_FOUND", "model"),
        (pb.GenerateRequest(model="embed", work=asked().work), "INVALID_ARGUMENT", "TASK_NOT_SUPPORTED", "work"),
        (asked(context={"timeout": {"seconds": -1}}), "INVALID_ARGUMENT", "INVALID_FIELD", "context.timeout"),
        (asked(context={"timeout": {}}), "DEADLINE_EXCEEDED", "DEADLINE_EXPIRED", None),
        (asked("\x01"), "INTERNAL", "STEP_FAILED", None),
    ],
)
async def test_an_error_has_its_code_its_reason_and_its_field(served, request_, code, reason, field):
    got, details = await refused(served.inference.Generate(request_))
    assert (got.name, details["ErrorInfo"].reason, details["ErrorInfo"].domain) == (code, reason, "seam")
    if field is not None:
        assert [violation.field for violation in details["BadRequest"].field_violations] == [field]


async def test_errors_of_other_methods_are_told_alike(served):
    embed = pb.EmbedRequest(model="embed", work={"texts": ["x"] * 65})
    assert (await refused(served.inference.Embed(embed)))[1]["ErrorInfo"].reason == "TOO_MANY_TEXTS"
    score = pb.ScoreRequest(model="score", work={"inputs": [{"text": ""}]})
    assert (await refused(served.inference.Score(score)))[1]["ErrorInfo"].reason == "TEXT_EMPTY"
    count = pb.CountTokensRequest(model="chat")
    assert (await refused(served.inference.CountTokens(count)))[1]["ErrorInfo"].reason == "TEXT_EMPTY"
    code, details = await refused(served.models.GetModel(model_pb.GetModelRequest(name="x")))
    assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_one_bad_call_among_many_fails_alone(served):
    calls = [served.inference.Embed(pb.EmbedRequest(model="embed", work={"texts": [f"text {n}"]})) for n in range(20)]
    poison = served.inference.Embed(pb.EmbedRequest(model="embed", work={"texts": ["\x01"]}))
    assert (await refused(poison))[1]["ErrorInfo"].reason == "STEP_FAILED"
    for call in calls:
        assert len((await call).embeddings) == 1


async def test_the_calls_own_deadline_ends_the_work(served):
    served.gate.shut()
    late = served.inference.Generate(asked(tokens=4000), timeout=0.2)
    assert (await refused(late))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    served.gate.open()
    await idle(served)
    assert served.runner.step_count < 4000


async def test_a_deadline_in_the_request_ends_the_work_with_its_reason(served):
    served.gate.shut()
    late = served.inference.Generate(asked(context={"timeout": {"nanos": 100_000_000}}))
    _, accepted = await asyncio.gather(asyncio.to_thread(served.gate.wait_until_blocked), late.read())
    assert accepted.HasField("accepted")
    async with asyncio.timeout(20):
        await asyncio.sleep(0.11)  # the deadline itself, not a guess at how long something takes
    served.gate.open()
    assert (await refused(late))[1]["ErrorInfo"].reason == "DEADLINE_EXPIRED"


async def test_a_cancelled_call_frees_its_slot():
    async with running(slots=1) as served:
        served.gate.shut()
        call = served.inference.Generate(asked(tokens=4000))
        await call.read()
        await asyncio.to_thread(served.gate.wait_until_blocked)
        call.cancel()
        following = served.inference.Generate(asked(tokens=3))
        served.gate.open()
        assert [event async for event in following][-1].HasField("finished")
        await idle(served)
        assert served.runner.step_count < 1000  # of 4,000; steps take no time here, a cancel does


async def test_a_client_that_does_not_read_stops_the_generation():
    """HTTP/2's window fills, writes wait, no credits are granted, the sequence is not scheduled."""
    small = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    async with running(options=small) as served:
        call = served.inference.Generate(
            pb.GenerateRequest(
                model="chat",
                work={
                    "prompt": {"text": "hi"},
                    "stop": {"max_output_tokens": 4000, "ignore_end_token": True},
                    "detail": {"logprobs": True, "top_logprob_count": 20},
                },
            )
        )
        await call.read()
        await quiet(served)
        stalled_at = served.runner.step_count
        other = [event async for event in served.inference.Generate(asked(tokens=50))]
        assert other[-1].HasField("finished")
        assert stalled_at < 4000 - WINDOW
        assert sum(len(event.tokens.ids) for event in await rest(call)) == 4000


async def test_a_message_over_the_limit_is_refused_and_the_connection_lives():
    async with running(max_message_bytes=64 * 1024) as served:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await served.inference.Embed(pb.EmbedRequest(model="embed", work={"texts": ["x" * 70_000]}))
        assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await served.inference.Embed(pb.EmbedRequest(model="embed", work={"texts": ["x"]}))


async def test_bytes_that_are_no_message_are_refused_and_nobody_else_suffers(served):
    garbage = served.channel.unary_unary("/seam.inference.v1.InferenceService/Embed")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await garbage(b"\xff\xff\xff\xff garbage")
    assert failed.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN)
    assert await served.inference.Embed(pb.EmbedRequest(model="embed", work={"texts": ["x"]}))


async def test_the_same_answers_come_over_a_unix_socket(tmp_path):
    path = f"unix:{tmp_path}/s"
    async with running(listen=path) as served:
        assert served.server.address == path
        events = [event async for event in served.inference.Generate(asked())]
        assert events[-1].HasField("finished")


async def rest(call):
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    return events


async def quiet(served):
    """Returns when the model thread has stopped for want of credits."""
    async with asyncio.timeout(20):
        while True:
            before = served.runner.step_count
            waited = served.server.engine.idle_seconds()["waiting_for_credits"]
            await asyncio.sleep(0.05)
            idle = served.server.engine.idle_seconds()["waiting_for_credits"] - waited
            if served.runner.step_count == before and idle > 0.04:
                return


async def idle(served):
    assert await asyncio.to_thread(served.server.engine.wait_until_drained, 20)
