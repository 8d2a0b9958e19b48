"""The errors this package names. Each knows its reason; the wire room alone knows codes and details."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request and what is wrong with it: names the limit where there is one."""

    field: str
    description: str


class SeamError(Exception):
    """A request, and only this request, failed.

    `reason` is the name of a value of seam.errors.v1.ErrorReason without its prefix.
    `retry_after` is in seconds; set only where a retry makes sense.
    """

    reason = "INTERNAL_FAULT"

    def __init__(
        self, message: str, *, violations: Sequence[FieldViolation] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)
        self.retry_after = retry_after

    @classmethod
    def of_field(cls, field: str, description: str) -> "SeamError":
        """The error of one bad field; the message repeats it for people who read only that."""
        return cls(f"{field}: {description}", violations=[FieldViolation(field, description)])


class InvalidField(SeamError):
    reason = "INVALID_FIELD"


class TextEmpty(SeamError):
    reason = "TEXT_EMPTY"


class InputTooLong(SeamError):
    reason = "INPUT_TOO_LONG"


class TooManyTexts(SeamError):
    reason = "TOO_MANY_TEXTS"


class TaskNotSupported(SeamError):
    reason = "TASK_NOT_SUPPORTED"


class MalformedFrame(SeamError):
    """Ends the session: what follows cannot be understood."""

    reason = "MALFORMED_FRAME"


class ProtocolRevision(SeamError):
    reason = "PROTOCOL_REVISION"


class DuplicateRequest(SeamError):
    reason = "DUPLICATE_REQUEST"


class UnknownRequest(SeamError):
    reason = "UNKNOWN_REQUEST"


class ModelNotFound(SeamError):
    reason = "MODEL_NOT_FOUND"


class FeatureNotAvailable(SeamError):
    reason = "FEATURE_NOT_AVAILABLE"


class ModelNotReady(SeamError):
    reason = "MODEL_NOT_READY"


class Draining(SeamError):
    reason = "DRAINING"


class QueueFull(SeamError):
    reason = "QUEUE_FULL"


class CacheTooSmall(SeamError):
    reason = "CACHE_TOO_SMALL"


class MessageTooLarge(SeamError):
    reason = "MESSAGE_TOO_LARGE"


class DeadlineInfeasible(SeamError):
    reason = "DEADLINE_INFEASIBLE"


class DeadlineExpired(SeamError):
    reason = "DEADLINE_EXPIRED"


class Cancelled(SeamError):
    reason = "CANCELLED"


class NumericalFault(SeamError):
    reason = "NUMERICAL_FAULT"


class StepFailed(SeamError):
    reason = "STEP_FAILED"


class EngineStopped(SeamError):
    reason = "ENGINE_STOPPED"


class ModelExists(SeamError):
    reason = "MODEL_EXISTS"


class ModelBusy(SeamError):
    reason = "MODEL_BUSY"


class ModelLoadFailed(SeamError):
    """A call's answer; ModelLoadError is what raised it."""

    reason = "MODEL_LOAD_FAILED"


class ModelControlOff(SeamError):
    reason = "MODEL_CONTROL_OFF"


class InternalFault(SeamError):
    reason = "INTERNAL_FAULT"


class PeerNotAllowed(SeamError):
    reason = "PEER_NOT_ALLOWED"


class ModelLoadError(Exception):
    """A model cannot be served; says which, and what to do about it."""
