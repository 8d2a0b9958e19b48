"""Whether a port that was asked for can be had."""

import errno
import socket

from seam_local.plan import BadPlan

LOOPBACK = "127.0.0.1"


def require_free(port: int, option: str) -> None:
    """Raise BadPlan when something listens there. gRPC shares a port with whoever else shares it (SO_REUSEPORT), so a
    leftover server would silently take half of the calls: this look does not share."""
    if port == 0:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError as fault:
            if fault.errno == errno.EADDRINUSE:
                raise BadPlan(
                    f"port {port} is taken: stop who listens there, or take a free one with {option} 0"
                ) from None
            raise BadPlan(f"port {port} cannot be had ({fault.strerror}): take a free one with {option} 0") from None
