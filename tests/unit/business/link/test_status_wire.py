"""A status becomes the one error, whole."""

from business_svc.errors import FieldViolation, Reason
from business_svc.link.status_wire import error_of
from google.rpc import code_pb2, error_details_pb2, status_pb2
from support.duplex import status


def test_reason_violations_and_retry_time_survive() -> None:
    told = status("QUEUE_FULL", code_pb2.RESOURCE_EXHAUSTED, "full", retry_after=1.5)
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="embed.texts[3]", description="is empty")
    told.details.add().Pack(bad)
    error = error_of(told)
    assert error.reason is Reason.QUEUE_FULL
    assert error.message == "full"
    assert error.retry_after == 1.5
    assert error.violations == (FieldViolation("embed.texts[3]", "is empty"),)


def test_every_reason_of_the_table_is_understood() -> None:
    for reason in Reason:
        assert error_of(status(reason.value, code_pb2.INTERNAL)).reason is reason


def test_what_cannot_be_read_is_left_out_and_nobody_is_told_to_be_back_before_now() -> None:
    told = status("QUEUE_FULL", code_pb2.RESOURCE_EXHAUSTED, "x" * 1_000_000, retry_after=-7)
    told.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\x0e\x01")
    for number in range(100):
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=f"a{number}", description="y" * 1_000_000)
        told.details.add().Pack(bad)
    error = error_of(told)
    assert (error.reason, error.retry_after) == (Reason.QUEUE_FULL, 0.0)
    assert len(error.message) + sum(len(one.description) for one in error.violations) < 20_000


def test_a_status_of_another_maker_is_read_by_its_code() -> None:
    assert error_of(status_pb2.Status(code=code_pb2.UNAVAILABLE)).reason is Reason.REPLICA_LOST
    assert error_of(status_pb2.Status(code=code_pb2.UNKNOWN)).reason is Reason.INTERNAL_FAULT
    foreign = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT)
    foreign.details.add().Pack(error_details_pb2.ErrorInfo(reason="STEP_FAILED", domain="elsewhere"))
    assert error_of(foreign).reason is Reason.INVALID_FIELD
