"""Whether callers may change what is served."""

from inference_svc.errors import ModelControlOff
from inference_svc.residency import Residency


def changeable(residency: Residency | None, *, may_change: bool) -> Residency:
    """What changes it. None has nothing to change, whatever is allowed. Raises ModelControlOff."""
    if residency is None or not may_change:
        raise ModelControlOff("models are not changed by call here (SEAM_ALLOW_MODEL_CONTROL)")
    return residency
