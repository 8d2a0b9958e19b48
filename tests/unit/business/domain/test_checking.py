import math
from dataclasses import replace

import pytest
from business_svc.domain.checking import check_embed, check_generate, check_predict_text, check_score, served_model
from business_svc.domain.inference import (
    Choice,
    EmbedRequest,
    GenerateRequest,
    JsonSchema,
    Message,
    Model,
    OutputDetail,
    OutputFormat,
    Regex,
    Replica,
    ReplicaState,
    Sampling,
    ScoreInput,
    ScoreRequest,
    StopConditions,
    Task,
)
from business_svc.errors import Reason, SeamError
from hypothesis import given
from hypothesis import strategies as st
from support.fake_inference import CHAT, EMBED, SCORE

READY = Replica("a:1", "a", ReplicaState.READY, 0, ())
CONNECTING = replace(READY, state=ReplicaState.CONNECTING)
GOOD = GenerateRequest("chat", (Message("user", "hello"),))


def refused(check: object, *arguments: object) -> SeamError:
    with pytest.raises(SeamError) as caught:
        check(*arguments)  # type: ignore[operator]
    return caught.value


def fields_of(error: SeamError) -> list[str]:
    return [violation.field for violation in error.violations]


def test_a_good_request_passes_with_and_without_known_limits() -> None:
    for model in (CHAT, None):
        check_generate(GOOD, model)
        check_generate(
            replace(
                GOOD,
                messages=(Message("system", "a"), Message("user", "b"), Message("assistant", "")),
                sampling=Sampling(100, 0, 1, 1, 0.1, -2, 2, {0: 100.0, 2**32 - 1: -100.0}, 2**64 - 1),
                stop=StopConditions(128, 128, ("x" * 256,) * 16, (0, 2**32 - 1), True),
                format=JsonSchema("true"),
                detail=OutputDetail(True, 20, True),
            ),
            model,
        )
        check_predict_text("hello", model)
    check_embed(EmbedRequest("embed", ("a" * 200,) * 4, dimension_count=8), EMBED)
    check_score(ScoreRequest("score", (ScoreInput("a", "b"), ScoreInput("a"))), SCORE)


BAD_SAMPLING: list[tuple[Sampling, str, str]] = [
    (Sampling(temperature=-0.1), "temperature", "at least 0 and at most 100"),
    (Sampling(temperature=101), "temperature", "at most 100"),
    (Sampling(temperature=math.nan), "temperature", "nan"),
    (Sampling(top_k=-1), "top_k", "at least 0"),
    (Sampling(top_p=0), "top_p", "above 0 and at most 1"),
    (Sampling(top_p=1.01), "top_p", "at most 1"),
    (Sampling(min_p=-0.1), "min_p", "at least 0"),
    (Sampling(min_p=1.1), "min_p", "at most 1"),
    (Sampling(repetition_penalty=0), "repetition_penalty", "above 0 and finite"),
    (Sampling(repetition_penalty=math.inf), "repetition_penalty", "finite"),
    (Sampling(presence_penalty=-2.1), "presence_penalty", "at least -2"),
    (Sampling(frequency_penalty=2.1), "frequency_penalty", "at most 2"),
    (Sampling(logit_bias={1: 101.0}), "logit_bias[1]", "at most 100"),
    (Sampling(logit_bias={1: math.inf}), "logit_bias[1]", "inf"),
    (Sampling(logit_bias={-1: 1.0}), "logit_bias", "at least 0"),
    (Sampling(logit_bias=dict.fromkeys(range(1025), 1.0)), "logit_bias", "at most 1024"),
    (Sampling(seed=-1), "seed", "at least 0"),
    (Sampling(seed=2**64), "seed", str(2**64 - 1)),
]


@pytest.mark.parametrize(("sampling", "field", "limit"), BAD_SAMPLING)
def test_a_bad_sampling_setting_names_its_field_and_limit(sampling: Sampling, field: str, limit: str) -> None:
    error = refused(check_generate, replace(GOOD, sampling=sampling), CHAT)
    assert error.reason is Reason.INVALID_FIELD
    assert fields_of(error) == [f"sampling.{field}"]
    assert limit in error.violations[0].description
    assert error.message.startswith(f"sampling.{field}: ")


BAD_STOPS: list[tuple[StopConditions, str, str]] = [
    (StopConditions(max_output_tokens=0), "stop.max_output_tokens", "at least 1 and at most 128"),
    (StopConditions(max_output_tokens=129), "stop.max_output_tokens", "at most 128"),
    (StopConditions(min_output_tokens=129), "stop.min_output_tokens", "at most 128"),
    (StopConditions(max_output_tokens=3, min_output_tokens=4), "stop.min_output_tokens", "3"),
    (StopConditions(stop_strings=("a",) * 17), "stop.stop_strings", "at most 16"),
    (StopConditions(stop_strings=("a", "")), "stop.stop_strings[1]", "empty"),
    (StopConditions(stop_strings=("é" * 129,)), "stop.stop_strings[0]", "at most 256 bytes, had 258"),
    (StopConditions(stop_strings=("\udc00",)), "stop.stop_strings[0]", "surrogate"),
    (StopConditions(stop_token_ids=(1, 2**32)), "stop.stop_token_ids[1]", str(2**32 - 1)),
]


@pytest.mark.parametrize(("stop", "field", "limit"), BAD_STOPS)
def test_a_bad_stop_condition_names_its_field_and_limit(stop: StopConditions, field: str, limit: str) -> None:
    error = refused(check_generate, replace(GOOD, stop=stop), CHAT)
    assert (error.reason, fields_of(error)) == (Reason.INVALID_FIELD, [field])
    assert limit in error.violations[0].description


BAD_FORMATS: list[tuple[OutputFormat, str]] = [
    (JsonSchema("{"), "format.json_schema"),
    (JsonSchema("[" * 100_000), "format.json_schema"),
    (Regex(""), "format.regex"),
    (Choice(()), "format.choice.texts"),
    (Choice(("a", "")), "format.choice.texts[1]"),
    (JsonSchema('{"const": "\ud800"}'), "format.json_schema"),
    (Regex("a\ud800"), "format.regex"),
    (Choice(("a", "\udfff")), "format.choice.texts[1]"),
]


@pytest.mark.parametrize(("output_format", "field"), BAD_FORMATS)
def test_a_bad_format_names_its_field(output_format: OutputFormat, field: str) -> None:
    error = refused(check_generate, replace(GOOD, format=output_format), CHAT)
    assert (error.reason, fields_of(error)) == (Reason.INVALID_FIELD, [field])


def test_the_likeliest_tokens_are_told_with_logprobs_only() -> None:
    error = refused(check_generate, replace(GOOD, detail=OutputDetail(logprobs=False, top_logprob_count=2)), CHAT)
    assert (error.reason, fields_of(error)) == (Reason.INVALID_FIELD, ["detail.top_logprob_count"])


BAD_MESSAGES: list[tuple[tuple[Message, ...], str, Reason]] = [
    ((), "messages", Reason.TEXT_EMPTY),
    ((Message("user", ""),), "messages[0].content", Reason.TEXT_EMPTY),
    ((Message("system", ""), Message("user", "a")), "messages[0].content", Reason.TEXT_EMPTY),
    ((Message("king", "a"),), "messages[0].role", Reason.INVALID_FIELD),
    ((Message("user", "a"), Message("system", "b")), "messages[1].role", Reason.INVALID_FIELD),
    ((Message("user", "x" * 2001),), "messages[0].content", Reason.INPUT_TOO_LONG),
    ((Message("user", "é" * 1001),), "messages[0].content", Reason.INPUT_TOO_LONG),
    ((Message("user", "a\ud83d"),), "messages[0].content", Reason.INVALID_FIELD),
]


@pytest.mark.parametrize(("messages", "field", "reason"), BAD_MESSAGES)
def test_a_bad_message_names_its_place(messages: tuple[Message, ...], field: str, reason: Reason) -> None:
    error = refused(check_generate, replace(GOOD, messages=messages), CHAT)
    assert (error.reason, fields_of(error)) == (reason, [field])


def test_every_violation_of_a_request_is_told_at_once() -> None:
    request = replace(GOOD, messages=(Message("user", ""),), sampling=Sampling(top_p=2, min_p=2))
    error = refused(check_generate, request, CHAT)
    assert fields_of(error) == ["messages[0].content", "sampling.top_p", "sampling.min_p"]
    assert error.reason is Reason.INVALID_FIELD
    assert error.message.endswith("(and 2 more)")


def test_embeddings_and_scores_name_the_text_that_is_wrong() -> None:
    error = refused(check_embed, EmbedRequest("embed", ("a", "", "b", "")), EMBED)
    assert (error.reason, fields_of(error)) == (Reason.TEXT_EMPTY, ["texts[1]", "texts[3]"])
    error = refused(check_embed, EmbedRequest("embed", ()), EMBED)
    assert (error.reason, fields_of(error)) == (Reason.TEXT_EMPTY, ["texts"])
    error = refused(check_embed, EmbedRequest("embed", ("a",) * 5), EMBED)
    assert (error.reason, fields_of(error)) == (Reason.TOO_MANY_TEXTS, ["texts"])
    assert "4" in error.message
    error = refused(check_embed, EmbedRequest("embed", ("a" * 201,)), EMBED)
    assert (error.reason, fields_of(error)) == (Reason.INPUT_TOO_LONG, ["texts[0]"])
    for dimensions in (0, 9):
        error = refused(check_embed, EmbedRequest("embed", ("a",), dimension_count=dimensions), EMBED)
        assert (error.reason, fields_of(error)) == (Reason.INVALID_FIELD, ["dimension_count"])
    error = refused(check_embed, EmbedRequest("embed", ("a",), prompt_name="\ud800"), EMBED)
    assert (error.reason, fields_of(error)) == (Reason.INVALID_FIELD, ["prompt_name"])
    error = refused(check_score, ScoreRequest("score", (ScoreInput("a", ""), ScoreInput(""))), SCORE)
    assert (error.reason, fields_of(error)) == (Reason.TEXT_EMPTY, ["inputs[0].text_pair", "inputs[1].text"])
    assert refused(check_predict_text, "", CHAT).violations[0].field == "text"


@given(st.text(), st.integers(min_value=1, max_value=40))
def test_a_text_passes_exactly_when_utf8_carries_it_within_the_limit(text: str, limit: int) -> None:
    model = replace(EMBED, max_text_bytes=limit)
    try:
        fits = 0 < len(text.encode()) <= limit
    except UnicodeEncodeError:
        fits = False
    if fits:
        check_embed(EmbedRequest("embed", (text,)), model)
    else:
        refused(check_embed, EmbedRequest("embed", (text,)), model)


def test_a_model_is_found_by_name_and_task() -> None:
    models: list[Model] = [CHAT, EMBED]
    assert served_model(models, [READY], "chat", Task.GENERATE) is CHAT
    other = refused(served_model, models, [READY], "embed", Task.GENERATE)
    assert (other.reason, fields_of(other)) == (Reason.TASK_NOT_SUPPORTED, ["model"])
    unknown = refused(served_model, models, [READY], "nope", Task.GENERATE)
    assert (unknown.reason, fields_of(unknown)) == (Reason.MODEL_NOT_FOUND, ["model"])
    assert "chat, embed" in unknown.message


def test_a_model_that_a_replica_not_heard_of_yet_may_serve_is_left_to_inference() -> None:
    assert served_model([], [CONNECTING], "chat", Task.GENERATE) is None
    assert served_model([], [], "chat", Task.GENERATE) is None
    assert served_model([EMBED], [READY, CONNECTING], "chat", Task.GENERATE) is None
