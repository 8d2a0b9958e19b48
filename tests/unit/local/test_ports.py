"""A port that is taken is refused before anything starts."""

import socket

import pytest
from seam_local.plan import BadPlan
from seam_local.ports import LOOPBACK, require_free


@pytest.fixture(params=[False, True], ids=["alone", "shared as gRPC does"])
def taken(request):
    with socket.socket() as listener:
        if request.param:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((LOOPBACK, 0))
        listener.listen(1)
        yield listener.getsockname()[1]


def test_a_taken_port_is_refused_with_the_way_out(taken):
    with pytest.raises(BadPlan, match=rf"port {taken} is taken.*--grpc-port 0"):
        require_free(taken, "--grpc-port")


def test_a_port_is_free_again_when_its_listener_has_gone(taken):
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        port = other.getsockname()[1]
    require_free(port, "--grpc-port")


def test_zero_asks_for_any_port_and_is_always_free():
    require_free(0, "--http-port")
