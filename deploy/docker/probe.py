"""Ask a gRPC server how it is: `seam-probe ADDRESS [SERVICE]` ends with 0 when the service says SERVING.

The containers' health check: Kubernetes' own gRPC probes know no TLS. An address is host:port or unix:/path. Where the
business server shows a certificate (SEAM_EDGE_CERTIFICATE), this process in the same container has its files too: it
trusts that very certificate, and shows it where callers must show one.
"""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 4.0


def main(arguments: list[str]) -> int:
    """0 serving, 1 not, 2 where it could not be asked."""
    address, service = arguments[0], arguments[1] if len(arguments) > 1 else ""
    try:
        with channel(address) as opened:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(opened).Check(request, timeout=SECONDS)
    except (grpc.RpcError, OSError) as error:
        print(error.code().name if isinstance(error, grpc.Call) else error, file=sys.stderr)
        return 2
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def channel(address: str) -> grpc.Channel:
    """Raises OSError."""
    certificate, key = os.environ.get("SEAM_EDGE_CERTIFICATE"), os.environ.get("SEAM_EDGE_KEY")
    if not certificate or not key or address.startswith("unix:"):
        return grpc.insecure_channel(address)
    shown, private = read(certificate), read(key)
    credentials = grpc.ssl_channel_credentials(shown, private, shown)
    return grpc.secure_channel(address, credentials, (("grpc.ssl_target_name_override", name_in(shown)),))


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def name_in(certificate: bytes) -> str:
    """A DNS name that the certificate has; its subject's name where it has none."""
    from cryptography import x509  # slow to import, and not needed in the clear

    shown = x509.load_pem_x509_certificate(certificate)
    try:
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = names.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        hosts = []
    return hosts[0] if hosts else str(shown.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
