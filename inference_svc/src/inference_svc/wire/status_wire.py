"""Errors of this package as google.rpc.Status: the one table of codes and details. No grpc here: the same status
goes into an event of a session or into a call's trailing metadata."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from inference_svc.errors import InternalFault, SeamError

DOMAIN = "seam"
MAX_WORDS = 500  # characters: a status travels in headers, which have a limit of their own
MAX_VIOLATIONS = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a reason is told. `retry_after`, in seconds, stands in RetryInfo where the error does not say its own;
    None where a retry makes no sense."""

    code: int
    retry_after: float | None = None


ANSWERS: Mapping[str, Answer] = {
    "INVALID_FIELD": Answer(code_pb2.INVALID_ARGUMENT),
    "TEXT_EMPTY": Answer(code_pb2.INVALID_ARGUMENT),
    "INPUT_TOO_LONG": Answer(code_pb2.INVALID_ARGUMENT),
    "TOO_MANY_TEXTS": Answer(code_pb2.INVALID_ARGUMENT),
    "TASK_NOT_SUPPORTED": Answer(code_pb2.INVALID_ARGUMENT),
    "MALFORMED_FRAME": Answer(code_pb2.INVALID_ARGUMENT),
    "DUPLICATE_REQUEST": Answer(code_pb2.ALREADY_EXISTS),
    "UNKNOWN_REQUEST": Answer(code_pb2.NOT_FOUND),
    "MODEL_NOT_FOUND": Answer(code_pb2.NOT_FOUND),
    "FEATURE_NOT_AVAILABLE": Answer(code_pb2.UNIMPLEMENTED),
    "PROTOCOL_REVISION": Answer(code_pb2.FAILED_PRECONDITION),
    "MODEL_NOT_READY": Answer(code_pb2.UNAVAILABLE, retry_after=1.0),
    "DRAINING": Answer(code_pb2.UNAVAILABLE, retry_after=0.0),
    "NO_REPLICA": Answer(code_pb2.UNAVAILABLE, retry_after=1.0),
    "REPLICA_LOST": Answer(code_pb2.UNAVAILABLE, retry_after=0.0),
    "QUEUE_FULL": Answer(code_pb2.RESOURCE_EXHAUSTED, retry_after=0.5),
    "CACHE_TOO_SMALL": Answer(code_pb2.RESOURCE_EXHAUSTED),
    "MESSAGE_TOO_LARGE": Answer(code_pb2.RESOURCE_EXHAUSTED),
    "DEADLINE_INFEASIBLE": Answer(code_pb2.RESOURCE_EXHAUSTED, retry_after=0.5),
    "DEADLINE_EXPIRED": Answer(code_pb2.DEADLINE_EXCEEDED),
    "CANCELLED": Answer(code_pb2.CANCELLED),
    "NUMERICAL_FAULT": Answer(code_pb2.INTERNAL),
    "STEP_FAILED": Answer(code_pb2.INTERNAL),
    "POISON_REQUEST": Answer(code_pb2.ABORTED),
    "ENGINE_STOPPED": Answer(code_pb2.UNAVAILABLE, retry_after=0.0),
    "API_KEY_MISSING": Answer(code_pb2.UNAUTHENTICATED),
    "API_KEY_INVALID": Answer(code_pb2.UNAUTHENTICATED),
    "MODEL_EXISTS": Answer(code_pb2.ALREADY_EXISTS),
    "MODEL_BUSY": Answer(code_pb2.FAILED_PRECONDITION),
    "MODEL_LOAD_FAILED": Answer(code_pb2.FAILED_PRECONDITION),
    "MODEL_CONTROL_OFF": Answer(code_pb2.PERMISSION_DENIED),
    "INTERNAL_FAULT": Answer(code_pb2.INTERNAL),
    "PEER_NOT_ALLOWED": Answer(code_pb2.PERMISSION_DENIED),
}


def status_of(error: BaseException) -> status_pb2.Status:
    """What the caller is told. A fault of ours is logged here with all that is known, and told without it."""
    told = error if isinstance(error, SeamError) else _fault(error)
    answer = ANSWERS[told.reason]
    status = status_pb2.Status(code=answer.code, message=told.message[:MAX_WORDS])
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=told.reason, domain=DOMAIN))
    if told.violations:
        status.details.add().Pack(_bad_request(told))
    retry_after = answer.retry_after if told.retry_after is None else told.retry_after
    if answer.retry_after is not None and retry_after is not None:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=duration_of(retry_after)))
    return status


def duration_of(seconds: float) -> Duration:
    """Never negative: nothing that is told here may be."""
    nanoseconds = max(0, round(seconds * 1e9))
    return Duration(seconds=nanoseconds // 1_000_000_000, nanos=nanoseconds % 1_000_000_000)


def _fault(error: BaseException) -> SeamError:
    _log.error("a fault of the server, answered as INTERNAL_FAULT", exc_info=error)
    return InternalFault("a fault of the server; its log says more")


def _bad_request(error: SeamError) -> error_details_pb2.BadRequest:
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=violation.field[:MAX_WORDS], description=violation.description[:MAX_WORDS]
            )
            for violation in error.violations[:MAX_VIOLATIONS]
        ]
    )
