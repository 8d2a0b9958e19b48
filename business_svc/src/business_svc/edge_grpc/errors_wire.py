"""Errors as google.rpc.Status: the one table from reason to canonical code, and the details."""

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from business_svc.domain.retrying import retry_after
from business_svc.errors import Reason, SeamError

DOMAIN = "seam"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
# Trailers over 8 KiB may be refused by clients, and a message in them is written twice, once with three bytes a byte: a
# request with a thousand bad texts is told about the first few.
MAX_VIOLATIONS = 8
MAX_FIELD_BYTES = 100
MAX_DESCRIPTION_BYTES = 160
MAX_MESSAGE_BYTES = 500

CODES: Mapping[Reason, grpc.StatusCode] = {
    Reason.INVALID_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TEXT_EMPTY: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INPUT_TOO_LONG: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TOO_MANY_TEXTS: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TASK_NOT_SUPPORTED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MALFORMED_FRAME: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.DUPLICATE_REQUEST: grpc.StatusCode.ALREADY_EXISTS,
    Reason.UNKNOWN_REQUEST: grpc.StatusCode.NOT_FOUND,
    Reason.MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.FEATURE_NOT_AVAILABLE: grpc.StatusCode.UNIMPLEMENTED,
    Reason.PROTOCOL_REVISION: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.MODEL_NOT_READY: grpc.StatusCode.UNAVAILABLE,
    Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.NO_REPLICA: grpc.StatusCode.UNAVAILABLE,
    Reason.REPLICA_LOST: grpc.StatusCode.UNAVAILABLE,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.CACHE_TOO_SMALL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.MESSAGE_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE_INFEASIBLE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE_EXPIRED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.NUMERICAL_FAULT: grpc.StatusCode.INTERNAL,
    Reason.STEP_FAILED: grpc.StatusCode.INTERNAL,
    Reason.POISON_REQUEST: grpc.StatusCode.ABORTED,
    Reason.ENGINE_STOPPED: grpc.StatusCode.UNAVAILABLE,
    Reason.API_KEY_MISSING: grpc.StatusCode.UNAUTHENTICATED,
    Reason.API_KEY_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    Reason.MODEL_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.MODEL_BUSY: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.MODEL_LOAD_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.MODEL_CONTROL_OFF: grpc.StatusCode.PERMISSION_DENIED,
    Reason.INTERNAL_FAULT: grpc.StatusCode.INTERNAL,
    Reason.PEER_NOT_ALLOWED: grpc.StatusCode.PERMISSION_DENIED,
}


def status_of(error: SeamError) -> Status:
    status = Status(code=CODES[error.reason].value[0], message=_short(error.message, MAX_MESSAGE_BYTES))
    status.details.add().Pack(ErrorInfo(reason=error.reason.value, domain=DOMAIN))
    if error.violations:
        bad = BadRequest()
        for violation in error.violations[:MAX_VIOLATIONS]:
            bad.field_violations.add(
                field=_short(violation.field, MAX_FIELD_BYTES),
                description=_short(violation.description, MAX_DESCRIPTION_BYTES),
            )
        status.details.add().Pack(bad)
    seconds = retry_after(error)
    if seconds is not None:
        delay = Duration()
        delay.FromNanoseconds(round(seconds * 1e9))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return status


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: SeamError) -> None:
    """Ends the call with the error, by an exception of gRPC's; details ride in trailing metadata."""
    status = status_of(error)
    details = ((STATUS_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(CODES[error.reason], status.message, details)


def _short(text: str, limit: int) -> str:
    """What UTF-8 can carry of the text's beginning, in at most `limit` bytes."""
    carried = text.encode("utf-8", "replace")
    if len(carried) <= limit:
        return carried.decode()
    return carried[: limit - 3].decode("utf-8", "ignore") + "…"
