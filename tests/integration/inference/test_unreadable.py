"""Bytes that are no message of the contract: their sender is told, and nobody else notices."""

import grpc
import pytest
from inference import open_inference_pb2 as pb
from support.open_inference import said, text_of

from .test_calls import asked, refused, rest

GARBAGE = b"\xff\xff\xff"
OF_ONE_MESSAGE = (
    "/seam.inference.v1.InferenceService/Generate",
    "/seam.inference.v1.InferenceService/Embed",
    "/seam.inference.v1.ModelService/ListModels",
    "/inference.GRPCInferenceService/ModelInfer",
)


@pytest.mark.parametrize("method", OF_ONE_MESSAGE)
async def test_a_call_of_no_message_is_told_so_and_the_log_stays_clean(served, caplog, method):
    streams = method.endswith("Generate")
    call = (served.channel.unary_stream if streams else served.channel.unary_unary)(method)(GARBAGE)
    code, details = await refused(call)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details["ErrorInfo"].reason == "MALFORMED_FRAME"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    await rest(served.inference.Generate(asked()))


async def test_a_stream_that_breaks_off_in_garbage_answers_what_it_was_asked_before(served, caplog):
    async def messages():
        yield said(tokens=5, request_id="before").SerializeToString()
        yield GARBAGE

    streaming = served.channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer", response_deserializer=pb.ModelStreamInferResponse.FromString
    )
    call, answers = streaming(messages()), []
    while (answer := await read_or_end(call)) is not None:
        answers.append(answer)
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(text_of(answers)) == 5
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def read_or_end(call):
    try:
        answer = await call.read()
    except grpc.aio.AioRpcError:
        return None
    return None if answer is grpc.aio.EOF else answer
