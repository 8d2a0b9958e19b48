"""The HTTP edge as plain HTTP clients see it, over a real server."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from business_svc.domain.inference import JsonSchema, Regex
from business_svc.domain.retrying import RETRIED
from business_svc.edge_http.errors_http import TABLE
from business_svc.errors import Reason, SeamError, bad_field
from business_svc.server import Running
from support.fake_inference import CHAT, EMBED, SCORE, FakeInference, vector_of
from support.http_errors import error_of

CHAT_PATH = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello you"}]}


async def events_of(response: httpx.Response) -> list[str]:
    lines = [line async for line in response.aiter_lines()]
    assert lines[1::2] == [""] * (len(lines) // 2)
    assert all(line.startswith("data: ") for line in lines[::2])
    return [line.removeprefix("data: ") for line in lines[::2]]


async def test_predict_answers_a_text(http: httpx.AsyncClient, inference: FakeInference) -> None:
    response = await http.post("/predict", json={"text": "why", "max_output_tokens": 3})
    assert response.status_code == 200
    body = response.json()
    assert (body["text"], body["model"], body["finish_reason"]) == ("the sky is ", "chat", "length")
    assert (body["usage"]["completion_tokens"], body["notice"]) == (3, CHAT.notice)
    assert body["timings"]["queue"] == 0.25
    assert inference.contexts[0].tenant == "acme"


async def test_a_chat_has_openais_shape(http: httpx.AsyncClient) -> None:
    body = (await http.post(CHAT_PATH, json=HELLO)).json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "the sky is blue", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 4,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert body["seam"]["notice"] == CHAT.notice


async def test_a_streamed_chat_is_server_sent_events_with_an_end(http: httpx.AsyncClient) -> None:
    asked = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    async with http.stream("POST", CHAT_PATH, json=asked) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = await events_of(response)
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]]
    assert "".join(deltas) == "the sky is blue"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 5 + ["stop"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"]) == ([], 6)


async def test_every_field_of_a_chat_reaches_inference(http: httpx.AsyncClient, inference: FakeInference) -> None:
    asked = {
        "model": "chat",
        "messages": [
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
        ],
        "temperature": 0.5, "top_p": 0.25, "top_k": 3, "min_p": 0.125, "repetition_penalty": 1.5,
        "presence_penalty": -1, "frequency_penalty": 1, "logit_bias": {"7": -4}, "seed": -1, "n": 1,
        "max_completion_tokens": 3, "min_tokens": 1, "stop": "x", "stop_token_ids": [9], "ignore_eos": True,
        "logprobs": True, "top_logprobs": 2, "response_format": {"type": "json_object"},
        "user": "me", "metadata": {"a": "b"}, "store": False, "tools": [], "parallel_tool_calls": True,
    }  # fmt: skip
    response = await http.post(CHAT_PATH, json=asked)
    assert response.status_code == 200, response.text
    assert repr(inference.asked[0]) == (
        "GenerateRequest(model='chat', "
        "messages=(Message(role='system', content='be kind'), Message(role='user', content='ab')), "
        "sampling=Sampling(temperature=0.5, top_k=3, top_p=0.25, min_p=0.125, repetition_penalty=1.5, "
        "presence_penalty=-1.0, frequency_penalty=1.0, logit_bias={7: -4.0}, seed=18446744073709551615), "
        "stop=StopConditions(max_output_tokens=3, min_output_tokens=1, stop_strings=('x',), stop_token_ids=(9,), "
        'ignore_end_token=True), format=JsonSchema(schema=\'{"type":"object"}\'), '
        "detail=OutputDetail(logprobs=True, top_logprob_count=2, token_ids=False))"
    )
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "length"
    first = choice["logprobs"]["content"][0]
    assert (first["token"], first["logprob"], first["bytes"]) == ("the ", -0.5, [116, 104, 101, 32])
    assert len(first["top_logprobs"]) == 2


async def test_an_absent_temperature_is_openais_default(http: httpx.AsyncClient, inference: FakeInference) -> None:
    await http.post(CHAT_PATH, json={**HELLO, "max_tokens": 1})
    await http.post(CHAT_PATH, json={**HELLO, "max_tokens": 1, "temperature": 0})
    await http.post("/predict", json={"text": "a", "max_output_tokens": 1})
    assert [asked.sampling.temperature for asked in inference.asked] == [1.0, 0.0, None]  # type: ignore[union-attr]


async def test_formats_are_told_in_response_format(http: httpx.AsyncClient, inference: FakeInference) -> None:
    for told in (
        {"type": "text"},
        {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "string"}}},
        {"type": "regex", "regex": "a+"},
    ):
        assert (await http.post(CHAT_PATH, json={**HELLO, "max_tokens": 1, "response_format": told})).status_code == 200
    formats = [asked.format for asked in inference.asked]  # type: ignore[union-attr]
    assert formats == [None, JsonSchema('{"type": "string"}'), Regex("a+")]


BAD_CHATS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"n": 2}, 501, "n", "feature_not_available"),
    ({"n": 0}, 400, "n", "invalid_field"),
    ({"tools": [{"type": "function"}]}, 501, "tools", "feature_not_available"),
    ({"reasoning_effort": "high"}, 501, "reasoning_effort", "feature_not_available"),
    ({"best_of": 3}, 400, "best_of", "invalid_field"),
    ({"\ud800": 3}, 400, "body", "invalid_field"),
    ({"top_logprobs": 2}, 400, "top_logprobs", "invalid_field"),
    ({"temperature": -1}, 400, "temperature", "invalid_field"),
    ({"top_p": 0}, 400, "top_p", "invalid_field"),
    ({"max_tokens": 0}, 400, "max_tokens", "invalid_field"),
    ({"max_completion_tokens": 0}, 400, "max_completion_tokens", "invalid_field"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, 400, "max_tokens", "invalid_field"),
    ({"stop": ["a", ""]}, 400, "stop[1]", "invalid_field"),
    ({"stop_token_ids": [-1]}, 400, "stop_token_ids[0]", "invalid_field"),
    ({"logit_bias": {"x": 1}}, 400, "logit_bias.x", "invalid_field"),
    ({"logit_bias": {"1": 101}}, 400, "logit_bias[1]", "invalid_field"),
    ({"response_format": {"type": "xml"}}, 400, "response_format.type", "invalid_field"),
    ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema.schema", "invalid_field"),
    ({"response_format": {"type": "regex"}}, 400, "response_format.regex", "invalid_field"),
    ({"response_format": {"type": "text", "regex": "a"}}, 400, "response_format.regex", "invalid_field"),
    (
        {"response_format": {"type": "regex", "regex": "a", "choice": ["x"]}},
        400,
        "response_format.choice",
        "invalid_field",
    ),
    ({"response_format": {"type": "json_object", "grammar": "x"}}, 400, "response_format.grammar", "invalid_field"),
    ({"messages": []}, 400, "messages", "text_empty"),
    ({"messages": [{"role": "user", "content": ""}]}, 400, "messages[0].content", "text_empty"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content", "invalid_field"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages[0].content", "invalid_field"),
    ({"messages": [{"role": "king", "content": "a"}]}, 400, "messages[0].role", "invalid_field"),
    ({"messages": [{"role": "tool", "content": "a"}]}, 501, "messages[0].role", "feature_not_available"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        501,
        "messages[0].content[0].type",
        "feature_not_available",
    ),
    ({"model": "nope"}, 404, "model", "model_not_found"),
    ({"model": "embed"}, 400, "model", "task_not_supported"),
]


async def test_a_bad_field_of_a_chat_is_named(http: httpx.AsyncClient, inference: FakeInference) -> None:
    for fields, status, param, code in BAD_CHATS:
        response = await http.post(CHAT_PATH, content=json.dumps({**HELLO, **fields}))
        error = error_of(response)
        assert (fields, response.status_code, error["param"], error["code"]) == (fields, status, param, code), error
        assert response.headers["x-should-retry"] == "false"
    assert inference.asked == []


async def test_a_number_that_is_none_is_refused(http: httpx.AsyncClient, inference: FakeInference) -> None:
    for field, value in (("temperature", "NaN"), ("min_p", "Infinity")):
        body = json.dumps(HELLO)[:-1] + f', "{field}": {value}}}'
        response = await http.post(CHAT_PATH, content=body)
        assert (response.status_code, error_of(response)["param"]) == (400, field)
    assert inference.asked == []


async def test_fields_of_inference_are_told_as_the_callers_own(
    http: httpx.AsyncClient, inference: FakeInference
) -> None:
    for theirs, path, body, ours in (
        ("work.stop.stop_strings[1]", CHAT_PATH, {**HELLO, "max_tokens": 1}, "stop[1]"),
        ("work.sampling.min_p", CHAT_PATH, {**HELLO, "max_tokens": 1}, "min_p"),
        ("work.format.json_schema", CHAT_PATH, HELLO, "response_format.json_schema.schema"),
        ("work.texts[3]", "/v1/embeddings", {"input": ["a"]}, "input[3]"),
        ("work.inputs[0].text", "/v1/score", {"inputs": [{"text": "a"}]}, "inputs[0].text"),
        ("work.prompt.chat.messages[0].content", "/predict", {"text": "a"}, "text"),
        ("work.stop.max_output_tokens", "/predict", {"text": "a"}, "max_output_tokens"),
    ):
        inference.failure = bad_field(theirs, "is bad")
        error = error_of(await http.post(path, json=body))
        assert (error["param"], error["message"]) == (ours, f"{ours}: is bad")


async def test_every_reason_has_its_status(http: httpx.AsyncClient, inference: FakeInference) -> None:
    for reason in Reason:
        inference.failure = SeamError(reason, "so it is", retry_after=1.5 if reason in RETRIED else None)
        response = await http.post("/v1/embeddings", json={"input": "a"})
        error = error_of(response)
        assert (response.status_code, error["type"]) == (TABLE[reason].status, TABLE[reason].kind)
        assert (error["code"], error["message"], error["param"]) == (reason.value.lower(), "so it is", None)
        retried = (response.headers.get("retry-after"), response.headers["x-should-retry"])
        assert retried == (("2", "true") if reason in RETRIED else (None, "false"))
        streamed = await http.post(CHAT_PATH, json={**HELLO, "stream": True})
        assert streamed.status_code == TABLE[reason].status
        assert streamed.headers["content-type"] == "application/json"


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event(
    http: httpx.AsyncClient, inference: FakeInference
) -> None:
    for failure, code in ((SeamError(Reason.REPLICA_LOST, "gone"), "replica_lost"), (OSError("x"), "internal_fault")):
        inference.failure, inference.failing_after = failure, 2
        async with http.stream("POST", CHAT_PATH, json={**HELLO, "stream": True}) as response:
            assert response.status_code == 200
            events = await events_of(response)
        assert len(events) == 4
        assert json.loads(events[-1])["error"]["code"] == code


async def test_a_fault_of_the_server_says_nothing_of_its_inside(
    http: httpx.AsyncClient, inference: FakeInference
) -> None:
    inference.failure = ZeroDivisionError("secret")
    response = await http.post(CHAT_PATH, json=HELLO)
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_fault")
    assert "secret" not in response.text
    inference.failure = None
    assert (await http.post(CHAT_PATH, json=HELLO)).status_code == 200


async def test_embeddings_come_as_numbers_or_base64(http: httpx.AsyncClient, inference: FakeInference) -> None:
    body = (await http.post("/v1/embeddings", json={"input": ["a", "b"], "user": "me", "dimensions": 4})).json()
    assert [row["embedding"] for row in body["data"]] == [list(vector_of("a", 4)), list(vector_of("b", 4))]
    assert (body["model"], body["usage"]) == ("embed", {"prompt_tokens": 2, "total_tokens": 2})
    assert inference.asked[0].dimension_count == 4  # type: ignore[union-attr]
    encoded = (await http.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"})).json()
    assert isinstance(encoded["data"][0]["embedding"], str)
    long = {"input": "w " * 30, "truncation": "drop_end"}
    assert (await http.post("/v1/embeddings", json=long)).json()["seam"]["truncated"] == [0]


BAD_EMBEDDINGS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"input": []}, 400, "input", "text_empty"),
    ({"input": ["a", ""]}, 400, "input[1]", "text_empty"),
    ({"input": ["a"] * 5}, 400, "input", "too_many_texts"),
    ({"input": "x" * 201}, 400, "input[0]", "input_too_long"),
    ({"input": "w " * 20}, 400, "input[0]", "input_too_long"),
    ({"input": [1, 2]}, 501, "input", "feature_not_available"),
    ({"input": [[1], [2]]}, 501, "input", "feature_not_available"),
    ({"dimensions": 9}, 400, "dimensions", "invalid_field"),
    ({"encoding_format": "hex"}, 400, "encoding_format", "invalid_field"),
    ({"truncation": "cut"}, 400, "truncation", "invalid_field"),
    ({"model": "chat"}, 400, "model", "task_not_supported"),
]


async def test_a_bad_field_of_an_embedding_is_named(http: httpx.AsyncClient) -> None:
    for fields, status, param, code in BAD_EMBEDDINGS:
        response = await http.post("/v1/embeddings", json={"input": "a", **fields})
        error = error_of(response)
        assert (fields, response.status_code, error["param"], error["code"]) == (fields, status, param, code), error


async def test_scores_have_labels(http: httpx.AsyncClient) -> None:
    body = (await http.post("/v1/score", json={"inputs": [{"text": "a"}, {"text": "b", "text_pair": "c"}]})).json()
    assert [row["labels"] for row in body["data"]] == [
        [{"label": "bad", "score": 0.25}, {"label": "good", "score": 0.75}]
    ] * 2


async def test_models_are_listed_and_found(http: httpx.AsyncClient) -> None:
    body = (await http.get("/v1/models")).json()
    assert [(card["id"], card["object"]) for card in body["data"]] == [
        (model.name, "model") for model in (CHAT, EMBED, SCORE)
    ]
    assert (await http.get("/v1/models/embed")).json()["seam"]["dimension_count"] == 8
    missing = await http.get("/v1/models/nope")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "model_not_found")


async def test_without_a_known_key_only_health_and_documentation_are_open(running: Running) -> None:
    async with httpx.AsyncClient(base_url=f"http://{running.http_address}") as stranger:
        response = await stranger.post(CHAT_PATH, content=b"not even json")
        assert (response.status_code, error_of(response)["code"]) == (401, "api_key_missing")
        assert response.headers["www-authenticate"] == "Bearer"
        wrong = await stranger.get("/v1/models", headers={"x-api-key": "wrong-key-wrong-key"})
        assert (wrong.status_code, error_of(wrong)["code"]) == (401, "api_key_invalid")
        right = await stranger.get("/v1/models", headers={"x-api-key": "a-key-that-is-long-enough"})
        assert right.status_code == 200
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert (await stranger.get(path)).status_code == 200


async def test_the_documentation_has_examples_of_every_request(http: httpx.AsyncClient) -> None:
    described = (await http.get("/openapi.json")).json()
    for path in (CHAT_PATH, "/v1/embeddings", "/v1/score", "/predict"):
        body = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = described["components"]["schemas"][body.rpartition("/")[2]]
        assert "examples" in schema or any("examples" in field for field in schema["properties"].values())


async def test_unknown_paths_and_methods_have_the_shape_of_errors(http: httpx.AsyncClient) -> None:
    assert (await http.get("/nope")).status_code == 404
    response = await http.get("/predict")
    assert (response.status_code, error_of(response)["message"]) == (405, "Method Not Allowed")


async def test_a_timeout_header_bounds_the_request(http: httpx.AsyncClient, inference: FakeInference) -> None:
    inference.gate.clear()
    for stream in (False, True):
        response = await http.post(CHAT_PATH, json={**HELLO, "stream": stream}, headers={"x-request-timeout": "0.1"})
        assert (response.status_code, error_of(response)["code"]) == (504, "deadline_expired")
    assert inference.live == 0
    expired = await http.post("/predict", json={"text": "a"}, headers={"x-request-timeout": "0"})
    assert (expired.status_code, error_of(expired)["code"]) == (504, "deadline_expired")
    wrong = await http.post("/predict", json={"text": "a"}, headers={"x-request-timeout": "soon"})
    assert (wrong.status_code, error_of(wrong)["param"]) == (400, "x-request-timeout")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT_PATH, HELLO),
        (CHAT_PATH, {**HELLO, "stream": True}),
        ("/predict", {"text": "a"}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/score", {"inputs": [{"text": "a"}]}),
    ],
)
async def test_a_closed_connection_stops_the_work(
    running: Running, inference: FakeInference, path: str, body: dict[str, Any]
) -> None:
    inference.gate.clear()
    await close_while_live(running, inference, path, body)
    assert len(inference.stopped) == 1


async def test_a_stream_closed_in_the_middle_stops_the_work(http: httpx.AsyncClient, inference: FakeInference) -> None:
    inference.open_tokens = 2
    async with http.stream("POST", CHAT_PATH, json={**HELLO, "stream": True}) as response:
        async for line in response.aiter_lines():
            if "sky" in line:
                break
    await asyncio.wait_for(inference.until_live(0), 10)
    assert len(inference.stopped) == 1


async def close_while_live(running: Running, inference: FakeInference, path: str, body: dict[str, Any]) -> None:
    host, port = running.http_address.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: a-key-that-is-long-enough\r\n"
    writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text)
    await asyncio.wait_for(inference.until_live(1), 10)
    writer.close()
    await writer.wait_closed()
    await asyncio.wait_for(inference.until_live(0), 10)


async def test_what_is_not_read_is_not_generated(running: Running, inference: FakeInference) -> None:
    inference.served = [replace(CHAT, max_context_tokens=10_000)]
    inference.words = ["x" * 50_000] * 1000
    host, port = running.http_address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    text = json.dumps({**HELLO, "stream": True, "max_tokens": 100}).encode()
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\nx-api-key: a-key-that-is-long-enough\r\n"
    writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text)
    await asyncio.wait_for(inference.until_given(1), 10)
    before = -1
    while before != inference.tokens_given:  # the sockets' buffers fill, then nothing moves
        before = inference.tokens_given
        await asyncio.sleep(0.2)
    assert before < 100
    given = 0
    async with asyncio.timeout(20):
        while given < 100:
            assert await reader.read(65_536)
            given = inference.tokens_given
    writer.close()
    await asyncio.wait_for(inference.until_live(0), 10)


async def test_a_drain_lets_a_stream_end(running: Running, http: httpx.AsyncClient, inference: FakeInference) -> None:
    inference.open_tokens = 1
    async with http.stream("POST", CHAT_PATH, json={**HELLO, "stream": True}) as response:
        draining = asyncio.create_task(running.drain(20))
        await asyncio.sleep(0)
        inference.token_gate.set()
        assert (await events_of(response))[-1] == "[DONE]"
    await asyncio.wait_for(draining, 10)


async def test_what_is_longer_than_the_drain_is_told_so(
    running: Running, http: httpx.AsyncClient, inference: FakeInference
) -> None:
    inference.open_tokens = 1
    whole = asyncio.create_task(http.post(CHAT_PATH, json=HELLO))
    async with http.stream("POST", CHAT_PATH, json={**HELLO, "stream": True}) as response:
        await asyncio.wait_for(inference.until_live(2), 10)
        draining = asyncio.create_task(running.drain(0.05))
        assert json.loads((await events_of(response))[-1])["error"]["code"] == "draining"
    answered = await whole
    assert (answered.status_code, error_of(answered)["code"]) == (503, "draining")
    await asyncio.wait_for(draining, 10)
    assert inference.live == 0
