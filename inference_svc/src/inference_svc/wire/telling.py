"""How a call ends that failed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from inference_svc.wire.status_wire import status_of

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS_KEY = "grpc-status-details-bin"

Call = grpc.aio.ServicerContext[Any, Any]


@asynccontextmanager
async def telling(call: Call) -> AsyncIterator[None]:
    """Ends the call with the status of what was raised inside; the status's details ride in trailing metadata."""
    try:
        yield
    except grpc.aio.BaseError:
        raise  # a peer that is gone, or an abort: grpc.aio ends the call
    except Exception as error:  # this call's own failure
        status = status_of(error)
        await call.abort(_CODES[status.code], status.message, ((_DETAILS_KEY, status.SerializeToString()),))
