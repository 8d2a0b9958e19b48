"""google.rpc.Status -> the one error of this package. Field paths stay the contract's: whoever answers renames them."""

from typing import TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from business_svc.errors import FieldViolation, Reason, SeamError

DOMAIN = "seam"

# For a status without our ErrorInfo (a proxy's, another maker's server).
_REASON_OF_CODE = {
    code_pb2.CANCELLED: Reason.CANCELLED,
    code_pb2.INVALID_ARGUMENT: Reason.INVALID_FIELD,
    code_pb2.DEADLINE_EXCEEDED: Reason.DEADLINE_EXPIRED,
    code_pb2.NOT_FOUND: Reason.MODEL_NOT_FOUND,
    code_pb2.RESOURCE_EXHAUSTED: Reason.QUEUE_FULL,
    code_pb2.UNIMPLEMENTED: Reason.FEATURE_NOT_AVAILABLE,
    code_pb2.UNAVAILABLE: Reason.REPLICA_LOST,
}


_MOST_WORDS = 1_000  # characters of a message
_MOST_VIOLATIONS = 16
_Detail = TypeVar("_Detail", bound=Message)


def error_of(status: status_pb2.Status) -> SeamError:
    """Whoever answered may be no friend: what cannot be read is left out, and long words are cut."""
    reason = _REASON_OF_CODE.get(status.code, Reason.INTERNAL_FAULT)
    violations: list[FieldViolation] = []
    retry_after: float | None = None
    for detail in status.details:
        if info := _read(detail, error_details_pb2.ErrorInfo):
            if info.domain == DOMAIN and info.reason in Reason.__members__:
                reason = Reason[info.reason]
        elif bad := _read(detail, error_details_pb2.BadRequest):
            told = bad.field_violations[: _MOST_VIOLATIONS - len(violations)]
            violations.extend(FieldViolation(one.field[:_MOST_WORDS], one.description[:_MOST_WORDS]) for one in told)
        elif retry := _read(detail, error_details_pb2.RetryInfo):
            retry_after = max(0.0, retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    return SeamError(reason, status.message[:_MOST_WORDS], violations=violations, retry_after=retry_after)


def _read(detail: any_pb2.Any, kind: type[_Detail]) -> _Detail | None:
    read = kind()
    try:
        return read if detail.Unpack(read) else None
    except DecodeError:
        return None
