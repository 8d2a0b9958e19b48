"""Requests of very many parts are refused before any part is looked at."""

import pytest
from business_svc.edge_grpc import business_wire
from business_svc.edge_http import requests_http
from business_svc.edge_http.schema import ChatCompletionBody
from business_svc.errors import Reason, SeamError
from seam.business.v1 import chat_service_pb2, conversation_pb2, embedding_service_pb2, score_service_pb2

MANY = 4097


def test_messages_over_grpc() -> None:
    turn = conversation_pb2.Message(role="user", content="x")
    assert len(business_wire.chat_request(chat_service_pb2.ChatRequest(messages=[turn] * (MANY - 1))).messages)
    with pytest.raises(SeamError, match=r"messages: must be at most 4096 in one request, were 4097") as refused:
        business_wire.chat_request(chat_service_pb2.ChatRequest(messages=[turn] * MANY))
    assert refused.value.reason is Reason.INPUT_TOO_LONG


def test_texts_and_pairs_over_grpc() -> None:
    with pytest.raises(SeamError, match=r"texts: must be at most 4096") as refused:
        business_wire.embed_request(embedding_service_pb2.EmbedRequest(texts=["x"] * MANY))
    assert refused.value.reason is Reason.TOO_MANY_TEXTS
    with pytest.raises(SeamError, match=r"inputs: must be at most 4096"):
        business_wire.score_request(score_service_pb2.ScoreRequest(inputs=[score_service_pb2.ScoreInput()] * MANY))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_over_http_the_limit_of_tokens_has_the_name_that_the_caller_gave_it(name: str) -> None:
    body = ChatCompletionBody.model_validate({"messages": [], name: 5})
    assert requests_http.chat_fields(body)("stop.max_output_tokens") == name
