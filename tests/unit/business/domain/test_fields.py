import pytest
from business_svc.domain.fields import by_prefix, from_inference, renamed, without_first_messages
from business_svc.errors import FieldViolation, Reason, SeamError, bad_field


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("work.texts[3]", "texts[3]"),
        ("work.sampling.top_p", "sampling.top_p"),
        ("work.prompt.chat.messages[0].content", "messages[0].content"),
        ("work.prompt", "messages"),
        ("work.inputs[1].text_pair", "inputs[1].text_pair"),
        ("model", "model"),
        ("workload", "workload"),
    ],
)
def test_paths_of_inference_lose_the_steps_that_the_caller_did_not_write(theirs: str, ours: str) -> None:
    assert from_inference(theirs) == ours


def test_messages_that_the_server_put_in_front_are_not_counted() -> None:
    rename = without_first_messages(1)
    assert rename("messages[2].content") == "messages[1].content"
    assert rename("messages[12]") == "messages[11]"
    assert rename("messages[0].content") == "messages[0].content"
    assert rename("messages") == "messages"
    assert without_first_messages(0)("messages[2].role") == "messages[2].role"


def test_a_prefix_is_a_whole_step() -> None:
    rename = by_prefix([("stop.stop_strings", "stop"), ("texts", "input"), ("format", "response_format")])
    assert rename("stop.stop_strings[2]") == "stop[2]"
    assert rename("stop.stop_strings") == "stop"
    assert rename("texts_more") == "texts_more"
    assert rename("format.regex") == "response_format.regex"


def test_a_renamed_error_keeps_all_but_its_paths() -> None:
    error = SeamError(
        Reason.INVALID_FIELD,
        "work.texts[0]: is bad",
        violations=[FieldViolation("work.texts[0]", "is bad"), FieldViolation("work.texts[1]", "too")],
        retry_after=2.0,
    )
    told = renamed(error, from_inference, by_prefix([("texts", "input")]))
    assert (told.reason, told.message, told.retry_after) == (Reason.INVALID_FIELD, "input[0]: is bad", 2.0)
    assert [violation.field for violation in told.violations] == ["input[0]", "input[1]"]
    assert told.violations[0].description == "is bad"


def test_a_message_that_does_not_name_the_field_stays_as_it_is() -> None:
    error = SeamError(Reason.TEXT_EMPTY, "nothing there", violations=[FieldViolation("work.texts", "empty")])
    assert renamed(error, from_inference).message == "nothing there"
    assert renamed(bad_field("a", "b"), lambda path: path).message == "a: b"
