"""What can go wrong with a call, as exceptions that say what to do about it.

Every exception carries the canonical code, the reason (a value of seam.errors.v1.ErrorReason without its prefix, empty
when nothing on the way named one), the message for people, the fields at fault, and the seconds after which a retry
makes sense. Decide by class or by `reason`, never by the message.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request (dotted path, indices in brackets) and what is wrong with it."""

    field: str
    description: str


class SeamError(Exception):
    """A call failed. `retry_after` is in seconds, None where the server did not ask for a retry."""

    def __init__(
        self,
        code: str,
        reason: str,
        message: str,
        violations: tuple[FieldViolation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        # All of them are Exception.args, so that the exception survives pickling.
        super().__init__(code, reason, message, violations, retry_after)
        self.code = code
        self.reason = reason
        self.message = message
        self.violations = violations
        self.retry_after = retry_after

    def __str__(self) -> str:
        unsaid = [v for v in self.violations if v.description not in self.message]
        named = "; ".join(f"{v.field}: {v.description}" for v in unsaid)
        return f"{self.message} ({named})" if named else self.message


class InvalidRequest(SeamError):
    """The request itself is wrong, or too large for the model: change it, a retry cannot help."""


class NotAuthenticated(SeamError):
    """The API key is missing, not known, or not allowed to do this."""


class NotFound(SeamError):
    """Nothing of this name is served: `models()` lists what is."""


class NotImplementedBySeam(SeamError):
    """The contract has it, and this server or this model does not do it."""


class Overloaded(SeamError):
    """Too much is waiting already: try again after `retry_after`, or with a longer deadline."""


class Unavailable(SeamError):
    """No server, or no replica behind it, could answer: try again after `retry_after`."""


class DeadlineExceeded(SeamError):
    """The call's timeout passed before the whole answer was there."""


class Cancelled(SeamError):
    """The call was cancelled, on this side or on the way."""


class ServerError(SeamError):
    """The server failed at a request that was in order."""
