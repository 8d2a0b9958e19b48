"""Which method a request belongs to: every one has a message of its own."""

from collections.abc import Mapping

from seam.business.v1 import (
    chat_service_pb2,
    embedding_service_pb2,
    operations_service_pb2,
    predict_service_pb2,
    score_service_pb2,
)

_FILES = (chat_service_pb2, predict_service_pb2, embedding_service_pb2, score_service_pb2, operations_service_pb2)

METHODS: Mapping[str, str] = {
    method.input_type.full_name: f"{service.full_name}/{method.name}"
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""By the full name of the request's message, as "package.Service/Method"."""
