"""The inference server's observer, where somebody is to be told."""

from seam_telemetry.moments import Moments
from seam_telemetry.providers import Telemetry

from inference_svc.observing import Arrival, RequestWatch
from inference_svc.telemetry.instruments import Instruments
from inference_svc.telemetry.requests import WatchedRequest


class Watching:
    """Implements observing.RequestObserver and EngineObserver, and wire.observed_calls.CallObserver."""

    def __init__(self, telemetry: Telemetry, replica: str) -> None:
        self._telemetry = telemetry
        self._instruments = Instruments(telemetry.meter)
        self._moments = Moments()
        self._replica = replica

    def received(self, arrival: Arrival) -> RequestWatch:
        return WatchedRequest(self._telemetry, self._instruments, self._moments, self._replica, arrival)

    def frame(self, requests: int) -> None:
        self._instruments.frame.record(requests)

    def cancelled(self, model: str, seconds: float) -> None:
        self._instruments.cancel_to_free.record(seconds, {"gen_ai.request.model": model})

    def called(self, method: str, code: str, seconds: float) -> None:
        labels = {"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": code}
        self._instruments.rpc_server.record(seconds, labels)


def observer_of(telemetry: Telemetry, replica: str) -> Watching | None:
    """None where nobody is to be told: it costs nothing then."""
    return Watching(telemetry, replica) if telemetry.traced or telemetry.metered or telemetry.log.on else None
