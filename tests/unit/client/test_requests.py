"""What a caller says becomes the contract's request, or an error with the caller's own name of the field."""

import pytest
from seam.business.v1 import embedding_service_pb2
from seam_client import InvalidRequest, Message
from seam_client.wire import requests


def test_a_text_is_a_turn_of_the_user() -> None:
    request = requests.chat_request("hello", {})
    assert [(m.role, m.content) for m in request.messages] == [("user", "hello")]


def test_turns_may_be_messages_or_mappings_and_the_system_message_goes_first() -> None:
    turns = [Message("user", "a"), {"role": "assistant", "content": ""}, Message("user", "b")]
    request = requests.chat_request(turns, {"system": "be brief"})
    assert [(m.role, m.content) for m in request.messages] == [
        ("system", "be brief"),
        ("user", "a"),
        ("assistant", ""),
        ("user", "b"),
    ]


def test_settings_left_out_or_none_are_absent_so_that_the_server_decides() -> None:
    request = requests.chat_request("x", {"temperature": None, "max_output_tokens": None})
    assert not request.sampling.HasField("temperature")
    assert not request.stop.HasField("max_output_tokens")
    assert request.format.WhichOneof("format") is None


def test_zero_is_a_setting_and_not_silence() -> None:
    request = requests.chat_request("x", {"temperature": 0.0, "top_k": 0, "seed": 0})
    assert all(request.sampling.HasField(name) for name in ("temperature", "top_k", "seed"))


def test_every_setting_reaches_its_field() -> None:
    request = requests.chat_request(
        "x",
        {
            "model": "m",
            "temperature": 0.5,
            "top_k": 3,
            "top_p": 0.9,
            "min_p": 0.1,
            "repetition_penalty": 1.5,
            "presence_penalty": -1.0,
            "frequency_penalty": 1.0,
            "logit_bias": {5: -100.0},
            "seed": 2**63,
            "max_output_tokens": 7,
            "min_output_tokens": 2,
            "stop_strings": ["a", "b"],
            "stop_token_ids": [9],
            "ignore_end_token": True,
            "regex": "a+",
            "logprobs": True,
            "top_logprob_count": 4,
            "token_ids": True,
        },
    )
    for group in (request.sampling, request.stop, request.detail):
        assert len(group.ListFields()) == len(group.DESCRIPTOR.fields)
    assert (request.model, request.format.regex, dict(request.sampling.logit_bias)) == ("m", "a+", {5: -100.0})


def test_a_single_stop_string_is_not_taken_apart() -> None:
    assert list(requests.chat_request("x", {"stop_strings": "END"}).stop.stop_strings) == ["END"]


def test_a_schema_may_be_given_as_a_mapping() -> None:
    assert requests.chat_request("x", {"json_schema": {"type": "object"}}).format.json_schema == '{"type": "object"}'


def test_an_empty_choice_is_sent_so_that_the_server_can_refuse_it() -> None:
    assert requests.chat_request("x", {"choices": []}).format.WhichOneof("format") == "choice"


def test_two_forms_at_once_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most one"):
        requests.chat_request("x", {"regex": "a", "choices": ["a"]})


def test_a_misspelt_setting_is_a_type_error_as_for_any_call() -> None:
    with pytest.raises(TypeError, match="temprature"):
        requests.chat_request("x", {"temprature": 1.0})  # type: ignore[typeddict-unknown-key]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"top_k": 2**32}, "top_k"),
        ({"temperature": "hot"}, "temperature"),
        ({"logit_bias": {-1: 0.0}}, "logit_bias"),
        ({"stop_strings": ["\ud800"]}, "stop_strings"),
        ({"stop_token_ids": [1.5]}, "stop_token_ids"),
    ],
)
def test_what_cannot_be_sent_is_an_invalid_request_that_names_the_field(settings: dict, field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        requests.chat_request("x", settings)  # type: ignore[arg-type]
    assert raised.value.reason == "INVALID_FIELD"
    assert [violation.field for violation in raised.value.violations] == [field]


def test_half_a_character_in_a_message_names_the_message() -> None:
    with pytest.raises(InvalidRequest) as raised:
        requests.chat_request([Message("user", "fine"), Message("user", "\ud800")], {})
    assert raised.value.violations[0].field == "messages[1].content"


def test_a_turn_without_content_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[0\]"):
        requests.chat_request([{"role": "user", "text": "x"}], {})


def test_one_text_to_embed_is_not_taken_apart_and_truncation_is_said() -> None:
    cut = requests.embed_request("abc", "", True, 8, "query")
    assert (list(cut.texts), cut.dimension_count, cut.prompt_name) == (["abc"], 8, "query")
    assert cut.truncation == embedding_service_pb2.TRUNCATION_DROP_END
    kept = requests.embed_request(iter(["a", "b"]), "", False, None, "")
    assert (list(kept.texts), kept.HasField("dimension_count")) == (["a", "b"], False)
    assert kept.truncation == embedding_service_pb2.TRUNCATION_REFUSE


def test_a_pair_is_told_from_a_text() -> None:
    request = requests.score_request(["a", ("q", "")], "", False)
    assert [(i.text, i.HasField("text_pair")) for i in request.inputs] == [("a", False), ("q", True)]


def test_a_request_over_the_limit_says_its_size_and_the_limit() -> None:
    with pytest.raises(InvalidRequest, match=r"1\d\d\d bytes, the limit is 1000") as raised:
        requests.check_size(requests.predict_request("x" * 1000, None), 1000)
    assert raised.value.reason == "MESSAGE_TOO_LARGE"
