"""Reads a failed call into the exception that says what to do: by reason, else by canonical code, never by text."""

from collections.abc import Iterable
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from seam_client.errors import (
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

_DOMAIN = "seam"
_DETAILS_KEY = "grpc-status-details-bin"

# The reasons that only the two services say to each other are the server's own failure here.
CLASS_BY_REASON: dict[str, type[SeamError]] = {
    "INVALID_FIELD": InvalidRequest,
    "TEXT_EMPTY": InvalidRequest,
    "INPUT_TOO_LONG": InvalidRequest,
    "TOO_MANY_TEXTS": InvalidRequest,
    "TASK_NOT_SUPPORTED": InvalidRequest,
    "CACHE_TOO_SMALL": InvalidRequest,
    "MESSAGE_TOO_LARGE": InvalidRequest,
    "MALFORMED_FRAME": ServerError,
    "DUPLICATE_REQUEST": ServerError,
    "UNKNOWN_REQUEST": ServerError,
    "PROTOCOL_REVISION": ServerError,
    "NUMERICAL_FAULT": ServerError,
    "STEP_FAILED": ServerError,
    "POISON_REQUEST": ServerError,
    "MODEL_EXISTS": ServerError,
    "MODEL_BUSY": ServerError,
    "MODEL_LOAD_FAILED": ServerError,
    "MODEL_CONTROL_OFF": ServerError,
    "INTERNAL_FAULT": ServerError,
    "PEER_NOT_ALLOWED": ServerError,
    "MODEL_NOT_FOUND": NotFound,
    "FEATURE_NOT_AVAILABLE": NotImplementedBySeam,
    "MODEL_NOT_READY": Unavailable,
    "DRAINING": Unavailable,
    "NO_REPLICA": Unavailable,
    "REPLICA_LOST": Unavailable,
    "ENGINE_STOPPED": Unavailable,
    "QUEUE_FULL": Overloaded,
    "DEADLINE_INFEASIBLE": Overloaded,
    "DEADLINE_EXPIRED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "API_KEY_MISSING": NotAuthenticated,
    "API_KEY_INVALID": NotAuthenticated,
}
# For what no Seam server said: a proxy, the gRPC library, or a reason newer than this client. A Seam server gives every
# INTERNAL of its own a reason; without one, the stream was cut on the way (HTTP/2 has no better word for it).
CLASS_BY_CODE: dict[StatusCode, type[SeamError]] = {
    StatusCode.INVALID_ARGUMENT: InvalidRequest,
    StatusCode.OUT_OF_RANGE: InvalidRequest,
    StatusCode.FAILED_PRECONDITION: InvalidRequest,
    StatusCode.ALREADY_EXISTS: InvalidRequest,
    StatusCode.UNAUTHENTICATED: NotAuthenticated,
    StatusCode.PERMISSION_DENIED: NotAuthenticated,
    StatusCode.NOT_FOUND: NotFound,
    StatusCode.UNIMPLEMENTED: NotImplementedBySeam,
    StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    StatusCode.UNAVAILABLE: Unavailable,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    StatusCode.CANCELLED: Cancelled,
    StatusCode.ABORTED: ServerError,
    StatusCode.INTERNAL: Unavailable,
    StatusCode.DATA_LOSS: ServerError,
    StatusCode.UNKNOWN: ServerError,
}


class FailedCall(Protocol):
    """What the sync and the async library both tell of a call that failed."""

    def code(self) -> StatusCode: ...
    def details(self) -> str | None: ...

    # Pairs of key and value, or None; the two libraries' types for them have nothing in common.
    def trailing_metadata(self) -> Any: ...


def seam_error(failed: FailedCall, target: str) -> SeamError:
    """The exception of a failed call to `target`, a server's address as people write it."""
    code = failed.code()
    status = _rich_status(failed.trailing_metadata() or ())
    info, bad_request, retry_info = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        for known in (info, bad_request, retry_info):
            detail.Unpack(known)
    reason = info.reason if info.domain == _DOMAIN else ""
    retry_after = retry_info.retry_delay.ToNanoseconds() / 1e9 if retry_info.HasField("retry_delay") else None
    violations = tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations)
    kind = CLASS_BY_REASON.get(reason) or CLASS_BY_CODE.get(code, ServerError)
    message = status.message or failed.details() or code.name
    if not reason:
        message = _named(kind, message, target)
    return kind(code.name, reason, message, violations, retry_after)


def cancelled_here() -> Cancelled:
    """The error of an answer that this side gave up."""
    return Cancelled("CANCELLED", "", "the call was cancelled by its caller")


def ended_early(target: str) -> ServerError:
    """The error of a stream that ended well before its answer was finished."""
    return ServerError("INTERNAL", "", f"{target} ended the stream before the answer was finished")


def _named(kind: type[SeamError], message: str, target: str) -> str:
    """No Seam server put it into words: say what it means and which address it is about."""
    if kind is Unavailable:
        return f"no answer from a server at {target}: {message}"
    if kind is DeadlineExceeded:
        return f"the timeout passed before {target} had answered"
    return f"{target}: {message}"


def _rich_status(metadata: Iterable[tuple[str, str | bytes]]) -> status_pb2.Status:
    status = status_pb2.Status()
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:
                # A proxy's own use of the key: the plain code and text still stand.
                return status_pb2.Status()
    return status
