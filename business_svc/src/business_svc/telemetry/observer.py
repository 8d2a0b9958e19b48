"""The business server's observer, where somebody is to be told."""

from seam_telemetry.moments import Moments
from seam_telemetry.providers import Telemetry

from business_svc.domain.inference import Context
from business_svc.observing import UNOBSERVED, Arrival, CallWatch, Observer, Operation, Trail
from business_svc.telemetry.calls import WatchedCall
from business_svc.telemetry.instruments import Instruments
from business_svc.telemetry.trails import SESSION, WatchedTrail


class Watching:
    """Implements observing.Observer."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._instruments = Instruments(telemetry.meter)
        self._moments = Moments()

    def call(self, arrival: Arrival) -> CallWatch:
        return WatchedCall(self._telemetry, self._instruments, self._moments, arrival)

    def trail(self, operation: Operation, model: str, context: Context) -> Trail:
        return WatchedTrail(self._telemetry, self._instruments, self._moments, model, context)

    def session_ended(self, address: str, seconds: float, why: str, in_order: bool) -> None:
        code = "OK" if in_order else "UNAVAILABLE"
        labels = {"rpc.system.name": "grpc", "rpc.method": SESSION, "rpc.response.status_code": code}
        if not in_order:
            labels["error.type"] = code
        self._instruments.rpc_client.record(seconds, labels)


def observer_of(telemetry: Telemetry) -> Observer:
    """One that costs nothing where nobody is to be told."""
    listened = telemetry.traced or telemetry.metered or telemetry.log.on
    return Watching(telemetry) if listened else UNOBSERVED
