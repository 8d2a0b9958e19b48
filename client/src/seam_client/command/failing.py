"""What a failed command says, in one line, and the exit code that scripts see."""

from seam_client.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    NotImplementedBySeam,
    Overloaded,
    SeamError,
    Unavailable,
)

OTHER, USAGE, INVALID, NOT_AUTHENTICATED, UNAVAILABLE, DEADLINE, OVERLOADED = range(1, 8)
INTERRUPTED = 130
BROKEN_PIPE = 141

_CODES: tuple[tuple[type[SeamError], int], ...] = (
    (InvalidRequest, INVALID),
    (NotFound, INVALID),
    (NotImplementedBySeam, INVALID),
    (NotAuthenticated, NOT_AUTHENTICATED),
    (Unavailable, UNAVAILABLE),
    (DeadlineExceeded, DEADLINE),
    (Overloaded, OVERLOADED),
)
HELP = (
    "Exit codes: 0 answered, 1 other failure, 2 wrong use, 3 invalid request, 4 not authenticated, 5 unavailable, "
    "6 deadline passed, 7 overloaded, 130 interrupted."
)


def exit_code(error: SeamError) -> int:
    return next((code for kind, code in _CODES if isinstance(error, kind)), OTHER)


def line(error: SeamError) -> str:
    """Reason, field, limit and what to do, with nothing in it that could break the line."""
    said = " ".join(_in_brief(error).split())
    hint = _what_to_do(error)
    return f"{error.reason or error.code}: {said}" + (f" -> {hint}" if hint else "")


def _in_brief(error: SeamError) -> str:
    """gRPC tells a failed connection as a chain of causes: its two ends are what a person needs."""
    if isinstance(error, Unavailable) and not error.reason:
        head, _, causes = error.message.partition(": ")
        return f"{head}: {causes.rpartition(': ')[2]}"
    return str(error)


def _what_to_do(error: SeamError) -> str:
    again = f"try again in {error.retry_after:g} s" if error.retry_after else "try again later"
    match error:
        case NotAuthenticated():
            return "give the key with --api-key or SEAM_API_KEY"
        case NotFound():
            return "`seam models` lists what is served"
        case Overloaded():
            return again if error.retry_after else ""
        case Unavailable() if error.reason:
            return again
        case Unavailable():
            tls = "; say --plaintext if it speaks no TLS" if "(TLS)" in error.message else ""
            return f"start a server with seam-up, or name one with --target or --ready-file{tls}"
        case DeadlineExceeded():
            return "allow more with --timeout SECONDS"
        case InvalidRequest(reason="INPUT_TOO_LONG"):
            return "shorten it, or cut it with --truncate where the command has that"
        case _:
            return ""
