"""uvicorn as a guest in somebody else's event loop: no signals, no logs of accesses, a socket that is already bound."""

import asyncio
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75


class Listener(uvicorn.Server):
    """`serve(sockets=[...])` runs until `drain`; `listening` is set when connections are taken, `closed` when none is
    left."""

    def __init__(self, app: ASGIApp, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        config.load()
        config.ssl = tls
        super().__init__(config)
        self.listening = asyncio.Event()
        self.closed = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """The process's signals belong to whoever owns the loop."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            self.closed.set()

    def drain(self, grace: float) -> None:
        """Takes nothing new; what runs has `grace` seconds and is cancelled then."""
        self.config.timeout_graceful_shutdown = grace  # type: ignore[assignment]
        self.should_exit = True


_UNSENT_BYTES = 16 * 1024  # that the system holds for a connection whose reader does not read; megabytes by default


def bound_socket(host: str, port: int) -> socket.socket:
    """Bound, not yet listening. Raises OSError. asyncio turns Nagle's delay off only where the protocol is named; else
    each small write behind another waits 40 ms for the reader's acknowledgement. Connections inherit the options."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    bound.setblocking(False)
    return bound


def told_address(bound: socket.socket) -> str:
    """ "host:port" """
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
