"""The errors the business names. Edges map them to gRPC and HTTP by one table each."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """The values of seam.errors.v1.ErrorReason, without prefix; a test compares the two lists."""

    INVALID_FIELD = "INVALID_FIELD"
    TEXT_EMPTY = "TEXT_EMPTY"
    INPUT_TOO_LONG = "INPUT_TOO_LONG"
    TOO_MANY_TEXTS = "TOO_MANY_TEXTS"
    TASK_NOT_SUPPORTED = "TASK_NOT_SUPPORTED"
    MALFORMED_FRAME = "MALFORMED_FRAME"
    DUPLICATE_REQUEST = "DUPLICATE_REQUEST"
    UNKNOWN_REQUEST = "UNKNOWN_REQUEST"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    FEATURE_NOT_AVAILABLE = "FEATURE_NOT_AVAILABLE"
    PROTOCOL_REVISION = "PROTOCOL_REVISION"
    MODEL_NOT_READY = "MODEL_NOT_READY"
    DRAINING = "DRAINING"
    NO_REPLICA = "NO_REPLICA"
    REPLICA_LOST = "REPLICA_LOST"
    QUEUE_FULL = "QUEUE_FULL"
    CACHE_TOO_SMALL = "CACHE_TOO_SMALL"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    DEADLINE_INFEASIBLE = "DEADLINE_INFEASIBLE"
    DEADLINE_EXPIRED = "DEADLINE_EXPIRED"
    CANCELLED = "CANCELLED"
    NUMERICAL_FAULT = "NUMERICAL_FAULT"
    STEP_FAILED = "STEP_FAILED"
    POISON_REQUEST = "POISON_REQUEST"
    ENGINE_STOPPED = "ENGINE_STOPPED"
    API_KEY_MISSING = "API_KEY_MISSING"
    API_KEY_INVALID = "API_KEY_INVALID"
    MODEL_EXISTS = "MODEL_EXISTS"
    MODEL_BUSY = "MODEL_BUSY"
    MODEL_LOAD_FAILED = "MODEL_LOAD_FAILED"
    MODEL_CONTROL_OFF = "MODEL_CONTROL_OFF"
    INTERNAL_FAULT = "INTERNAL_FAULT"
    PEER_NOT_ALLOWED = "PEER_NOT_ALLOWED"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the caller's request (dotted path, indices in brackets) and what is wrong with it."""

    field: str
    description: str


class SeamError(Exception):
    """A request, and only this request, failed. `retry_after` is in seconds, set only where a retry makes sense."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.retry_after = retry_after


def bad_field(field: str, description: str, reason: Reason = Reason.INVALID_FIELD) -> SeamError:
    """The error of one bad field."""
    return SeamError(reason, f"{field}: {description}", violations=[FieldViolation(field, description)])
