"""Errors as OpenAI's clients read them: the one table from reason to HTTP status and type."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from business_svc.domain.retrying import retry_after
from business_svc.errors import Reason, SeamError

MAX_CHARACTERS = 2000
MAX_VIOLATIONS = 64


@dataclass(frozen=True, slots=True)
class Told:
    """`kind` is the error's "type"."""

    status: int
    kind: str


_BAD_REQUEST = Told(400, "invalid_request_error")
_TOO_LARGE = Told(413, "invalid_request_error")
_NO_KEY = Told(401, "authentication_error")
_NOT_FOUND = Told(404, "not_found_error")
_OVERLOADED = Told(429, "rate_limit_error")
_CLIENT_GONE = Told(499, "cancelled_error")
_FAULT = Told(500, "server_error")
_NOT_DONE = Told(501, "not_implemented_error")
_UNAVAILABLE = Told(503, "unavailable_error")
_TIMEOUT = Told(504, "timeout_error")

# Troubles of the session between this server and a replica (a malformed frame, an id used twice or never), and
# what only operators of a replica are told, are the server's own to an HTTP caller, whatever their canonical code.
TABLE: Mapping[Reason, Told] = {
    Reason.INVALID_FIELD: _BAD_REQUEST,
    Reason.TEXT_EMPTY: _BAD_REQUEST,
    Reason.INPUT_TOO_LONG: _BAD_REQUEST,
    Reason.TOO_MANY_TEXTS: _BAD_REQUEST,
    Reason.TASK_NOT_SUPPORTED: _BAD_REQUEST,
    Reason.MALFORMED_FRAME: _FAULT,
    Reason.DUPLICATE_REQUEST: _FAULT,
    Reason.UNKNOWN_REQUEST: _FAULT,
    Reason.MODEL_NOT_FOUND: _NOT_FOUND,
    Reason.FEATURE_NOT_AVAILABLE: _NOT_DONE,
    Reason.PROTOCOL_REVISION: _FAULT,
    Reason.MODEL_NOT_READY: _UNAVAILABLE,
    Reason.DRAINING: _UNAVAILABLE,
    Reason.NO_REPLICA: _UNAVAILABLE,
    Reason.REPLICA_LOST: _UNAVAILABLE,
    Reason.QUEUE_FULL: _OVERLOADED,
    Reason.CACHE_TOO_SMALL: _TOO_LARGE,
    Reason.MESSAGE_TOO_LARGE: _TOO_LARGE,
    Reason.DEADLINE_INFEASIBLE: _OVERLOADED,
    Reason.DEADLINE_EXPIRED: _TIMEOUT,
    Reason.CANCELLED: _CLIENT_GONE,
    Reason.NUMERICAL_FAULT: _FAULT,
    Reason.STEP_FAILED: _FAULT,
    Reason.POISON_REQUEST: _FAULT,
    Reason.ENGINE_STOPPED: _UNAVAILABLE,
    Reason.API_KEY_MISSING: _NO_KEY,
    Reason.API_KEY_INVALID: _NO_KEY,
    Reason.MODEL_EXISTS: _FAULT,
    Reason.MODEL_BUSY: _FAULT,
    Reason.MODEL_LOAD_FAILED: _FAULT,
    Reason.MODEL_CONTROL_OFF: _FAULT,
    Reason.INTERNAL_FAULT: _FAULT,
    Reason.PEER_NOT_ALLOWED: _FAULT,
}


def error_body(error: SeamError) -> dict[str, Any]:
    """`code` is the reason in lower case; `param` the first bad field; `violations` all, where there are more."""
    param = error.violations[0].field if error.violations else None
    body = _body(error.message, TABLE[error.reason].kind, param, error.reason.value.lower())
    if len(error.violations) > 1:
        body["error"]["violations"] = [
            {"field": _carried(violation.field), "description": _carried(violation.description)}
            for violation in error.violations[:MAX_VIOLATIONS]
        ]
    return body


def error_response(error: SeamError) -> JSONResponse:
    """`x-should-retry` tells OpenAI's own clients, which would try every 409, 429 and 5xx again, what makes sense."""
    seconds = retry_after(error)
    headers = {"x-should-retry": "false" if seconds is None else "true"}
    if seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(seconds)))
        headers["retry-after-ms"] = str(math.ceil(seconds * 1000))
    told = TABLE[error.reason]
    if told is _NO_KEY:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), told.status, headers)


def protocol_error(status: int, message: str) -> JSONResponse:
    """What HTTP itself refuses (no such path, no such method), in the same shape."""
    return JSONResponse(_body(message, "invalid_request_error", None, None), status)


def _body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    told = None if param is None else _carried(param)
    return {"error": {"message": _carried(message), "type": kind, "param": told, "code": code}}


def _carried(text: str) -> str:
    """What UTF-8 can carry: a caller's JSON may hold half of a surrogate pair."""
    return text[:MAX_CHARACTERS].encode("utf-8", "replace").decode()
