"""google.rpc.Status -> the one error of this package. Field paths stay the contract's: whoever answers renames them."""

from google.rpc import code_pb2, error_details_pb2, status_pb2

from business_svc.errors import FieldViolation, Reason, SeamError

DOMAIN = "seam"

# For a status without our ErrorInfo (a proxy's, another maker's server).
_REASON_OF_CODE = {
    code_pb2.CANCELLED: Reason.CANCELLED,
    code_pb2.INVALID_ARGUMENT: Reason.INVALID_FIELD,
    code_pb2.DEADLINE_EXCEEDED: Reason.DEADLINE_EXPIRED,
    code_pb2.NOT_FOUND: Reason.MODEL_NOT_FOUND,
    code_pb2.RESOURCE_EXHAUSTED: Reason.QUEUE_FULL,
    code_pb2.UNIMPLEMENTED: Reason.FEATURE_NOT_AVAILABLE,
    code_pb2.UNAVAILABLE: Reason.REPLICA_LOST,
}


def error_of(status: status_pb2.Status) -> SeamError:
    reason = _REASON_OF_CODE.get(status.code, Reason.INTERNAL_FAULT)
    violations: list[FieldViolation] = []
    retry_after: float | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == DOMAIN and info.reason in Reason.__members__:
                reason = Reason[info.reason]
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations.extend(FieldViolation(one.field, one.description) for one in bad.field_violations)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
    return SeamError(reason, status.message, violations=violations, retry_after=retry_after)
