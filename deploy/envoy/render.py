"""Write what Envoy reads: edge.yaml with the addresses, limits and certificates of one place.

    python deploy/envoy/render.py --out FOLDER --business HOST:GRPC_PORT:HTTP_PORT ...

FOLDER then holds envoy.yaml, business.binpb (the contract, for the transcoder) and, with TLS, a secret-*.yaml for each
certificate. `--at` is where Envoy will find that folder, if it is not FOLDER itself. Certificates are files that may be
replaced while Envoy runs, as long as they lie in the folder that was named and arrive by a move.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2
from seam.business.v1 import (
    chat_service_pb2,
    embedding_service_pb2,
    operations_service_pb2,
    predict_service_pb2,
    score_service_pb2,
)

HERE = Path(__file__).resolve().parent
CONTRACT = (
    chat_service_pb2,
    embedding_service_pb2,
    operations_service_pb2,
    predict_service_pb2,
    score_service_pb2,
)
ERRORS = (status_pb2, error_details_pb2)  # an error's details are JSON too
SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
TLS_VERSIONS = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM files, the certificate's chain and its key, in one folder."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Edge:
    """`own`: what callers see; with `callers_ca` they show a certificate too. `business_ca`: the authority of the
    business servers' certificates, which prove `business_identity` (a DNS name or a URI); `shown` is shown to them."""

    listen: str
    probe: str
    admin: str
    business: tuple[tuple[str, int, int], ...]
    at: Path
    own: Pair | None = None
    callers_ca: Path | None = None
    business_ca: Path | None = None
    business_identity: str = "business"
    shown: Pair | None = None
    max_connections: int = 4096
    new_connections_a_second: int = 500


def rendered(edge: Edge) -> dict[str, Any]:
    """File names and what they hold: text of YAML trees, or bytes."""
    config = yaml.safe_load((HERE / "edge.yaml").read_text())
    _place(config, edge)
    secrets: dict[str, Any] = {}
    if edge.own is not None:
        _encrypt_edge(config, edge, secrets)
    if edge.business_ca is not None:
        _encrypt_upstream(config, edge, secrets)
    files: dict[str, Any] = {"envoy.yaml": config, "business.binpb": descriptors()}
    for name, secret in secrets.items():
        files[f"secret-{name}.yaml"] = {"resources": [{"@type": f"{SDS}.Secret", "name": name, **secret}]}
    return files


def descriptors() -> bytes:
    """The business contract and what errors carry, every file behind those it needs."""
    found: dict[str, FileDescriptor] = {}
    for module in (*CONTRACT, *ERRORS):
        for file in _needed(module.DESCRIPTOR):
            found.setdefault(file.name, file)
    every = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(every.file.add())
    return every.SerializeToString(deterministic=True)


def _needed(file: FileDescriptor) -> Iterator[FileDescriptor]:
    for dependency in file.dependencies:
        yield from _needed(dependency)
    yield file


def _place(config: dict[str, Any], edge: Edge) -> None:
    listeners, clusters = _named(config, "listeners"), _named(config, "clusters")
    listeners["edge"]["address"] = _address(edge.listen)
    listeners["probe"]["address"] = _address(edge.probe)
    config["admin"]["address"] = _address(edge.admin)
    clusters["admin"]["load_assignment"]["endpoints"] = _endpoints([edge.admin])
    clusters["business_grpc"]["load_assignment"]["endpoints"] = _endpoints(
        f"{h}:{port}" for h, port, _ in edge.business
    )
    clusters["business_http"]["load_assignment"]["endpoints"] = _endpoints(
        f"{h}:{port}" for h, _, port in edge.business
    )
    monitor = config["overload_manager"]["resource_monitors"][0]["typed_config"]
    monitor["max_active_downstream_connections"] = edge.max_connections
    limit, manager = (each["typed_config"] for each in listeners["edge"]["filter_chains"][0]["filters"])
    limit["token_bucket"] |= dict.fromkeys(("max_tokens", "tokens_per_fill"), edge.new_connections_a_second)
    manager["http_filters"][0]["typed_config"]["proto_descriptor"] = str(edge.at / "business.binpb")


def _encrypt_edge(config: dict[str, Any], edge: Edge, secrets: dict[str, Any]) -> None:
    assert edge.own is not None
    secrets["edge"] = _certificate(edge.own)
    common: dict[str, Any] = {
        "tls_params": TLS_VERSIONS,
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [_secret(edge, "edge")],
    }
    if edge.callers_ca is not None:
        secrets["callers"] = _authority(edge.callers_ca)
        common["validation_context_sds_secret_config"] = _secret(edge, "callers")
    _named(config, "listeners")["edge"]["filter_chains"][0]["transport_socket"] = _transport_socket(
        "DownstreamTlsContext",
        {"common_tls_context": common, "require_client_certificate": edge.callers_ca is not None},
    )


def _encrypt_upstream(config: dict[str, Any], edge: Edge, secrets: dict[str, Any]) -> None:
    assert edge.business_ca is not None
    secrets["business"] = _authority(edge.business_ca)
    kind = "URI" if "://" in edge.business_identity else "DNS"
    identity = {"san_type": kind, "matcher": {"exact": edge.business_identity}}
    validated = {
        "default_validation_context": {"match_typed_subject_alt_names": [identity]},
        "validation_context_sds_secret_config": _secret(edge, "business"),
    }
    common: dict[str, Any] = {"tls_params": TLS_VERSIONS, "combined_validation_context": validated}
    if edge.shown is not None:
        secrets["shown"] = _certificate(edge.shown)
        common["tls_certificate_sds_secret_configs"] = [_secret(edge, "shown")]
    for name, protocol in (("business_grpc", "h2"), ("business_http", "http/1.1")):
        context: dict[str, Any] = {"common_tls_context": common | {"alpn_protocols": [protocol]}}
        if kind == "DNS":
            context["sni"] = edge.business_identity
        _named(config, "clusters")[name]["transport_socket"] = _transport_socket("UpstreamTlsContext", context)


def _transport_socket(kind: str, context: dict[str, Any]) -> dict[str, Any]:
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": f"{SDS}.{kind}", **context}}


def _secret(edge: Edge, name: str) -> dict[str, Any]:
    source = {"path": str(edge.at / f"secret-{name}.yaml")}
    return {"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": source}}


def _certificate(pair: Pair) -> dict[str, Any]:
    files = {"certificate_chain": pair.certificate, "private_key": pair.key}
    named: dict[str, Any] = {name: {"filename": str(path)} for name, path in files.items()}
    return {"tls_certificate": named | {"watched_directory": {"path": str(pair.certificate.parent)}}}


def _authority(ca: Path) -> dict[str, Any]:
    context = {"trusted_ca": {"filename": str(ca)}, "watched_directory": {"path": str(ca.parent)}}
    return {"validation_context": context}


def _named(config: dict[str, Any], kind: str) -> dict[str, Any]:
    return {each["name"]: each for each in config["static_resources"][kind]}


def _address(address: str) -> dict[str, Any]:
    if address.startswith("unix:"):
        return {"pipe": {"path": address.removeprefix("unix:")}}
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def _endpoints(addresses: Iterable[str]) -> list[dict[str, Any]]:
    return [{"lb_endpoints": [{"endpoint": {"address": _address(address)}} for address in addresses]}]


def write(files: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else as_yaml(content))


def as_yaml(tree: dict[str, Any]) -> bytes:
    """Without anchors, which few tools follow."""
    return yaml.safe_dump(_unshared(tree), sort_keys=False, width=120).encode()


def _unshared(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _unshared(value) for key, value in tree.items()}
    return [_unshared(value) for value in tree] if isinstance(tree, list) else tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--at", type=Path)
    parser.add_argument("--listen", default="0.0.0.0:8080")
    parser.add_argument("--probe", default="0.0.0.0:9902")
    parser.add_argument("--admin", default="127.0.0.1:9901")
    parser.add_argument("--business", type=_business, action="append", metavar="HOST:GRPC_PORT:HTTP_PORT")
    parser.add_argument("--certificate", type=Path, help="what callers see")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--callers-ca", type=Path, help="callers must show a certificate of this authority")
    parser.add_argument("--business-ca", type=Path, help="the authority of the business servers' certificates")
    parser.add_argument("--business-identity", default="business", help="what their certificates must say")
    parser.add_argument("--shown-certificate", type=Path, help="what business servers see")
    parser.add_argument("--shown-key", type=Path)
    parser.add_argument("--max-connections", type=int, default=4096)
    parser.add_argument("--new-connections-a-second", type=int, default=500)
    asked = parser.parse_args()
    if asked.callers_ca and not asked.certificate:
        parser.error("--callers-ca needs --certificate and --key")
    edge = Edge(
        asked.listen,
        asked.probe,
        asked.admin,
        tuple(asked.business or [("business", 50051, 8080)]),
        asked.at or asked.out.resolve(),
        _pair(parser, asked.certificate, asked.key),
        asked.callers_ca,
        asked.business_ca,
        asked.business_identity,
        _pair(parser, asked.shown_certificate, asked.shown_key),
        asked.max_connections,
        asked.new_connections_a_second,
    )
    write(rendered(edge), asked.out)


def _business(text: str) -> tuple[str, int, int]:
    host, grpc_port, http_port = text.rsplit(":", 2)
    return host, int(grpc_port), int(http_port)


def _pair(parser: argparse.ArgumentParser, certificate: Path | None, key: Path | None) -> Pair | None:
    if (certificate is None) != (key is None):
        parser.error("a certificate and its key go together")
    return Pair(certificate, key) if certificate and key else None


if __name__ == "__main__":
    main()
