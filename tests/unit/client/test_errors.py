"""A failed call becomes the exception of its reason, and never of its text."""

import pickle
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from seam.errors.v1 import errors_pb2
from seam_client import (
    Cancelled,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    NotImplementedBySeam,
    Overloaded,
    SeamError,
    ServerError,
    Unavailable,
)
from seam_client.wire import errors


class Failed:
    """A failed call as grpc tells it."""

    def __init__(self, code: grpc.StatusCode, details: str = "", *rich: Any, raw: bytes | None = None) -> None:
        self._code, self._details = code, details
        packed = []
        for detail in rich:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        status = status_pb2.Status(code=code.value[0], message=details, details=packed)
        value = raw if raw is not None else status.SerializeToString()
        self._trailers = (("grpc-status-details-bin", value),) if rich or raw is not None else None

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailers


def info(reason: str, domain: str = "seam") -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=domain)


def test_every_reason_of_the_contract_has_a_class() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert set(errors.CLASS_BY_REASON) == reasons


def test_every_canonical_code_but_ok_has_a_class() -> None:
    assert set(errors.CLASS_BY_CODE) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("TEXT_EMPTY", InvalidRequest),
        ("CACHE_TOO_SMALL", InvalidRequest),
        ("MODEL_NOT_FOUND", NotFound),
        ("FEATURE_NOT_AVAILABLE", NotImplementedBySeam),
        ("API_KEY_INVALID", NotAuthenticated),
        ("QUEUE_FULL", Overloaded),
        ("NO_REPLICA", Unavailable),
        ("DEADLINE_EXPIRED", DeadlineExceeded),
        ("CANCELLED", Cancelled),
        ("POISON_REQUEST", ServerError),
    ],
)
def test_the_reason_decides_the_class(reason: str, kind: type[SeamError]) -> None:
    error = errors.seam_error(Failed(grpc.StatusCode.UNKNOWN, "said", info(reason)), "host:1")
    assert (type(error), error.reason, error.code, error.message) == (kind, reason, "UNKNOWN", "said")


def test_fields_and_the_time_to_retry_are_kept() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="texts[2]", description="300 tokens, at most 256")
    failed = Failed(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "too much",
        info("QUEUE_FULL"),
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)),
    )
    error = errors.seam_error(failed, "host:1")
    assert error.violations == (FieldViolation("texts[2]", "300 tokens, at most 256"),)
    assert error.retry_after == 1.5
    assert str(error) == "too much (texts[2]: 300 tokens, at most 256)"


def test_a_violation_that_the_message_tells_already_is_not_told_twice() -> None:
    error = InvalidRequest("C", "R", "texts[2]: too long", (FieldViolation("texts[2]", "too long"),))
    assert str(error) == "texts[2]: too long"


def test_another_makers_reason_is_not_taken_for_ours() -> None:
    error = errors.seam_error(Failed(grpc.StatusCode.NOT_FOUND, "x", info("QUEUE_FULL", "other.example")), "host:1")
    assert (type(error), error.reason) == (NotFound, "")


def test_a_reason_newer_than_the_client_falls_back_on_the_code_and_is_kept() -> None:
    error = errors.seam_error(Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "x", info("BUDGET_SPENT")), "host:1")
    assert (type(error), error.reason) == (Overloaded, "BUDGET_SPENT")


def test_no_server_is_unavailable_and_names_the_target() -> None:
    error = errors.seam_error(Failed(grpc.StatusCode.UNAVAILABLE, "connection refused"), "host:1")
    assert (type(error), error.reason, error.retry_after) == (Unavailable, "", None)
    assert str(error) == "no answer from a server at host:1: connection refused"


def test_a_stream_that_was_cut_on_the_way_may_be_tried_again() -> None:
    cut = "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))"
    assert isinstance(errors.seam_error(Failed(grpc.StatusCode.INTERNAL, cut), "host:1"), Unavailable)
    own = errors.seam_error(Failed(grpc.StatusCode.INTERNAL, "a fault", info("INTERNAL_FAULT")), "host:1")
    assert isinstance(own, ServerError)


def test_details_that_cannot_be_read_leave_the_code_and_the_text() -> None:
    error = errors.seam_error(Failed(grpc.StatusCode.ABORTED, "boom", raw=b"\xff\xff"), "host:1")
    assert (type(error), error.reason, error.message) == (ServerError, "", "host:1: boom")


def test_an_exception_survives_pickling() -> None:
    error = Overloaded("RESOURCE_EXHAUSTED", "QUEUE_FULL", "later", (FieldViolation("f", "d"),), 0.5)
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), vars(back)) == (Overloaded, vars(error))
