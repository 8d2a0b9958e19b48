"""What carries a session's frames, whatever is underneath."""

from typing import Protocol

from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse


class DuplexLost(Exception):
    """The other side is gone, or refused the session; says how."""


class Duplex(Protocol):
    """One session's frames both ways. One task sends, one receives; frames are frozen once sent."""

    async def send(self, frame: SessionRequest) -> None:
        """Returns when there is room for another. Raises DuplexLost."""
        ...

    async def receive(self) -> SessionResponse | None:
        """None when the other side ended in order. Raises DuplexLost."""
        ...

    async def aclose(self) -> None:
        """The other side sees it as the client going away."""
        ...


class Connector(Protocol):
    """A way to one replica."""

    @property
    def address(self) -> str:
        """Names the replica among a pool's."""
        ...

    @property
    def hop(self) -> float:
        """Seconds that a request's way there and back costs; 0 in the same process."""
        ...

    async def connect(self) -> Duplex:
        """Raises DuplexLost."""
        ...
