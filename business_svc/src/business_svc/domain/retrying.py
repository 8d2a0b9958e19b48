"""Which failures a caller may try again, and when: the "retry" column of seam.errors.v1.ErrorReason."""

from business_svc.errors import Reason, SeamError

DEFAULT_RETRY_SECONDS = 1.0

RETRIED = frozenset(
    {
        Reason.MODEL_NOT_READY,
        Reason.DRAINING,
        Reason.NO_REPLICA,
        Reason.REPLICA_LOST,
        Reason.QUEUE_FULL,
        Reason.DEADLINE_INFEASIBLE,
        Reason.ENGINE_STOPPED,
    }
)


def retry_after(error: SeamError) -> float | None:
    """Seconds to wait before trying again; None where trying again is no use."""
    if error.reason not in RETRIED:
        return None
    return DEFAULT_RETRY_SECONDS if error.retry_after is None else max(error.retry_after, 0.0)
