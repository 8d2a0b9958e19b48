"""Both clients against a running server: answers, settings, streams, cancels, deadlines, retries, errors."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from seam_client import (
    Cancelled,
    Citation,
    DeadlineExceeded,
    FieldViolation,
    Finished,
    FinishReason,
    InvalidRequest,
    LabelScore,
    Message,
    NotAuthenticated,
    Overloaded,
    SeamError,
    ServerError,
    Started,
    Task,
    Text,
    Timings,
    Unavailable,
    Usage,
)
from seam_client.wire.errors import CLASS_BY_REASON
from support.fake_business import CODES, KEY, NOTICE, FakeBusiness, fake_business

Connect = Callable[..., Any]
TIMINGS = Timings(0.001, 0.02, 0.5, 0.53)


def test_an_answer_is_read_piece_by_piece(seam: Any) -> None:
    with seam.chat("hello") as stream:
        assert (stream.started, stream.so_far) == (None, "")
        assert [str(piece) for piece in stream] == ["You said: ", "hello"]
        assert stream.started == Started("r-1", "chat", 7, 42, NOTICE)
        assert stream.finished == Finished(FinishReason.STOP, Usage(7, 4, 1), TIMINGS, "")
        assert stream.citations == (Citation(0, 3, "doc-1", "a passage"),)


def test_an_answer_is_collected_whole_with_what_was_read_before(seam: Any) -> None:
    with seam.chat("hello") as stream:
        assert str(next(iter(stream))) == "You said: "
        assert stream.text() == "You said: hello"
        assert stream.text() == "You said: hello"


def test_events_come_in_the_contracts_order(seam: Any) -> None:
    with seam.chat("hello") as stream:
        assert [type(event) for event in stream.events()] == [Started, Text, Text, Citation, Finished]


def test_a_reader_that_comes_late_loses_nothing(seam: Any, business: FakeBusiness) -> None:
    with seam.chat("drip 200") as stream:
        first = next(iter(stream))
        seam.models()
        seam.models()
        assert [str(first), *(str(piece) for piece in stream)] == [f"{n} " for n in range(200)]


def test_settings_key_and_deadline_reach_the_server(connect: Connect, business: FakeBusiness) -> None:
    seam = connect(business.target, timeout=30)
    seam.chat([Message("user", "x")], temperature=0.5, max_output_tokens=3, model="m", timeout=7).text()
    (asked,) = business.calls
    assert asked.metadata["authorization"] == f"Bearer {KEY}"
    assert asked.metadata["user-agent"].startswith("seam-client")
    assert (asked.request.sampling.temperature, asked.request.stop.max_output_tokens) == (0.5, 3)
    assert asked.request.model == "m"
    assert asked.seconds_left is not None
    assert 0 < asked.seconds_left < 8  # gRPC rounds what is left


def test_a_client_without_limit_sends_no_deadline(connect: Connect, business: FakeBusiness) -> None:
    connect(business.target, timeout=None).predict("x")
    assert business.calls[0].seconds_left is None or business.calls[0].seconds_left > 1e6


def test_a_prediction_comes_whole(seam: Any) -> None:
    answer = seam.predict("hi", max_output_tokens=4)
    assert (answer.text, answer.model, answer.reason) == ("You said: hi", "chat", FinishReason.LENGTH)
    assert (answer.usage, answer.timings, answer.notice) == (Usage(3, 4, 1), TIMINGS, NOTICE)


def test_vectors_come_in_the_order_of_the_texts(seam: Any) -> None:
    answer = seam.embed(["a", "b c", "x" * 101], truncate=True)
    assert [e.values for e in answer.embeddings] == [(0.5, -0.25, 1.0), (0.5, -0.25, 3.0), (0.5, -0.25, 101.0)]
    assert [(e.input_token_count, e.truncated) for e in answer.embeddings] == [(1, False), (2, False), (1, True)]
    assert (answer.model, answer.usage, answer.timings) == ("embed", Usage(3, 0, 1), TIMINGS)


def test_scores_come_in_the_order_of_texts_and_pairs(seam: Any) -> None:
    answer = seam.score(["ab", ("query", "text")])
    assert answer.scores[0].labels == (LabelScore("good", 0.75), LabelScore("bad", 0.25))
    assert answer.scores[1].labels == (LabelScore("good", 0.75),)
    assert [told.input_token_count for told in answer.scores] == [2, 5]


def test_models_are_listed_over_all_pages(seam: Any, business: FakeBusiness) -> None:
    chat, embed = seam.models()
    assert (chat.name, chat.task, chat.ready, chat.notice) == ("chat", Task.GENERATE, True, NOTICE)
    assert (embed.name, embed.task, embed.dimension_count, embed.max_texts) == ("embed", Task.EMBED, 384, 64)
    assert [asked.request.page_token for asked in business.calls] == ["", "2"]


def test_the_status_tells_replicas_and_their_load(seam: Any) -> None:
    status = seam.status()
    ready, lost = status.replicas
    assert (status.version, status.uptime_seconds) == ("0.1.0", 90.0)
    assert (ready.address, ready.replica_id, ready.state.value) == ("127.0.0.1:1234", "replica-1", "ready")
    assert (ready.models[0].step_seconds, ready.models[0].predicted_wait_seconds) == (0.012, 1.5)
    assert (lost.state.value, lost.models) == ("connecting", ())


def test_leaving_the_block_cancels_what_the_server_still_does(seam: Any, business: FakeBusiness) -> None:
    with seam.chat("hold") as stream:
        assert str(next(iter(stream))) == "You said: "
        assert not business.cancelled.is_set()
    assert business.cancelled.wait(10)


def test_reading_on_after_closing_is_cancelled_and_not_a_short_answer(seam: Any) -> None:
    stream = seam.chat("hold")
    next(iter(stream))
    stream.close()
    for _ in range(2):
        with pytest.raises(Cancelled):
            stream.text()


def test_closing_after_the_end_changes_nothing(seam: Any) -> None:
    stream = seam.chat("hello")
    assert stream.text() == "You said: hello"
    stream.close()
    assert stream.text() == "You said: hello"


def test_a_deadline_that_passes_names_the_server(seam: Any, business: FakeBusiness) -> None:
    with pytest.raises(DeadlineExceeded, match=business.target) as raised:
        seam.predict("hold", timeout=0.3)
    assert (raised.value.code, raised.value.reason) == ("DEADLINE_EXCEEDED", "")
    assert business.cancelled.wait(10)


def test_a_deadline_holds_for_the_whole_stream(seam: Any) -> None:
    with seam.chat("hold", timeout=0.3) as stream, pytest.raises(DeadlineExceeded):
        stream.text()


@pytest.mark.parametrize("reason", CODES)
def test_every_reason_is_raised_as_its_class(seam: Any, reason: str) -> None:
    code = CODES[reason]
    for ask in (seam.predict, lambda order: seam.chat(order).text()):
        with pytest.raises(SeamError) as raised:
            ask(f"fail {reason}")
        error = raised.value
        assert (type(error), error.reason, error.code) == (CLASS_BY_REASON[reason], reason, code.name)
        assert error.message == f"made to fail with {reason}"
        if type(error) in (Overloaded, Unavailable):
            assert error.retry_after == 0.25
        if type(error) is InvalidRequest and code.name == "INVALID_ARGUMENT":
            assert error.violations == (FieldViolation("the.field[0]", "what is wrong"),)


def test_a_replica_lost_in_the_middle_is_told_after_the_text_that_came_and_is_not_asked_again(
    seam: Any, business: FakeBusiness
) -> None:
    pieces = []
    with seam.chat("die") as stream:
        with pytest.raises(Unavailable) as raised:
            pieces += [str(piece) for piece in stream]
        assert (raised.value.reason, stream.so_far) == ("REPLICA_LOST", "You said: die")
    assert len(business.calls) == 1


def test_a_stream_that_ends_without_its_last_event_is_no_answer(seam: Any) -> None:
    with seam.chat("cut") as stream, pytest.raises(ServerError, match="before the answer was finished"):
        stream.text()


def test_a_failure_is_raised_again_when_asked_again(seam: Any) -> None:
    stream = seam.chat("fail QUEUE_FULL")
    for _ in range(2):
        with pytest.raises(Overloaded):
            stream.text()


def test_what_is_not_available_for_a_moment_is_asked_again(seam: Any, business: FakeBusiness) -> None:
    assert seam.chat("flaky 2").text() == "You said: flaky 2"
    assert len(business.calls) == 3


def test_a_unary_call_is_asked_again_too(seam: Any, business: FakeBusiness) -> None:
    assert seam.predict("flaky 1").text == "You said: flaky 1"
    assert len(business.calls) == 2


def test_a_server_that_stays_away_is_asked_three_times_at_most(seam: Any, business: FakeBusiness) -> None:
    with pytest.raises(Unavailable):
        seam.predict("bare UNAVAILABLE")
    assert len(business.calls) == 3


def test_a_server_that_forbids_the_retry_is_asked_once(seam: Any, business: FakeBusiness) -> None:
    with pytest.raises(Unavailable):
        seam.predict("fail NO_REPLICA")
    assert len(business.calls) == 1


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "INTERNAL", "DEADLINE_EXCEEDED"])
def test_only_unavailable_is_asked_again(seam: Any, business: FakeBusiness, code: str) -> None:
    with pytest.raises(SeamError):
        seam.predict(f"bare {code}")
    assert len(business.calls) == 1


def test_a_server_that_is_not_up_is_unavailable_by_name(connect: Connect) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port, nobody answers on it
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        seam = connect(target)
        for ask in (seam.status, lambda: seam.chat("x").text()):
            with pytest.raises(Unavailable, match=target) as raised:
                ask()
            assert raised.value.reason == ""


def test_a_client_made_before_its_server_works_once_that_is_up(connect: Connect, tmp_path: Path) -> None:
    target = f"unix:{tmp_path}/s"
    seam = connect(target)
    with pytest.raises(Unavailable):
        seam.status()
    with fake_business(target):
        give_up = time.monotonic() + 20
        while time.monotonic() < give_up:
            try:
                assert seam.predict("hi").text == "You said: hi"
                return
            except Unavailable:
                continue
        pytest.fail("the client never found the server")


@pytest.mark.parametrize(("key", "reason"), [(None, "API_KEY_MISSING"), ("wrong", "API_KEY_INVALID")])
def test_a_key_that_is_missing_or_unknown_is_not_authenticated(
    connect: Connect, business: FakeBusiness, key: str | None, reason: str
) -> None:
    with pytest.raises(NotAuthenticated) as raised:
        connect(business.target, api_key=key).models()
    assert raised.value.reason == reason


def test_a_request_over_the_limit_is_not_sent(connect: Connect, business: FakeBusiness) -> None:
    seam = connect(business.target, max_request_bytes=1000)
    for ask in (lambda: seam.embed(["x" * 1000]), lambda: seam.chat("x" * 1000)):
        with pytest.raises(InvalidRequest) as raised:
            ask()
        assert raised.value.reason == "MESSAGE_TOO_LARGE"
    assert business.calls == []


def test_a_closed_client_cannot_be_asked(connect: Connect, business: FakeBusiness) -> None:
    seam = connect(business.target)
    assert seam.predict("x").text == "You said: x"
    seam.close()
    with pytest.raises(ValueError, match="closed"):
        seam.predict("x")
