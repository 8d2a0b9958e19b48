"""What is to be started, checked before anything is."""

import math
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from seam_local.keys import Keys

DEFAULT_GRPC_PORT = 50051
DEFAULT_HTTP_PORT = 8080
MAX_REPLICAS = 64
MIN_KEY_CHARACTERS = 16  # the business server takes no shorter one
_KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,512}")
_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})")


class Topology(Enum):
    """One process; business and inference apart; an engine in the business process and replicas beside it."""

    MONOLITH = "monolith"
    SPLIT = "split"
    HYBRID = "hybrid"


class BadPlan(Exception):
    """What was asked for cannot be started; says why and what would do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Port 0 takes a free one. `replica_count` are started; `replica_addresses` run already and are joined."""

    topology: Topology
    replica_count: int
    replica_addresses: tuple[str, ...]
    grpc_port: int
    http_port: int
    keys: Keys
    ready_file: Path | None = None
    grace: float = 10.0
    start_timeout: float = 600.0
    tls: bool = False

    @property
    def has_local_engine(self) -> bool:
        """Whether the business process can answer with no replica at all."""
        return self.topology is not Topology.SPLIT


def checked_plan(
    topology: Topology,
    replicas: int | None,
    replica_addresses: tuple[str, ...],
    grpc_port: int,
    http_port: int,
    keys: Keys,
    ready_file: Path | None,
    grace: float,
    tls: bool = False,
) -> Plan:
    """Fill in what was not given; raises BadPlan."""
    count = _replica_count(topology, replicas, replica_addresses)
    for name, port in (("--grpc-port", grpc_port), ("--http-port", http_port)):
        if not 0 <= port <= 65535:
            raise BadPlan(f"{name} {port}: a port is 0 (any free one) to 65535")
    if grpc_port == http_port != 0:
        raise BadPlan(f"--grpc-port and --http-port are both {grpc_port}: they need one each")
    if tls and topology is Topology.MONOLITH:
        raise BadPlan("--tls: a monolith has no connection to encrypt: use --topology split or hybrid")
    if tls and replica_addresses:
        raise BadPlan(
            "--tls: a replica that runs already cannot know certificates made now: leave out --replica-address"
        )
    if not 0 <= grace < math.inf:
        raise BadPlan(f"--grace {grace}: seconds, 0 or more")
    if not _KEY.fullmatch(keys.shown):
        raise BadPlan(f"the API key: {MIN_KEY_CHARACTERS} or more letters, digits, or any of . _ ~ + / -")
    if ready_file is not None and not ready_file.absolute().parent.is_dir():
        raise BadPlan(f"--ready-file {ready_file}: there is no folder {ready_file.absolute().parent}")
    return Plan(
        topology=topology,
        replica_count=count,
        replica_addresses=replica_addresses,
        grpc_port=grpc_port,
        http_port=http_port,
        keys=keys,
        ready_file=ready_file.absolute() if ready_file else None,
        grace=grace,
        tls=tls,
    )


def _replica_count(topology: Topology, replicas: int | None, addresses: tuple[str, ...]) -> int:
    for address in addresses:
        match = _ADDRESS.fullmatch(address)
        if not match or not 0 < int(match[1]) <= 65535:
            raise BadPlan(f"--replica-address {address!r}: HOST:PORT, for example 127.0.0.1:50061")
    if len(set(addresses)) != len(addresses):
        raise BadPlan("--replica-address: the same address twice would count one replica as two")
    if replicas is not None and not 0 <= replicas <= MAX_REPLICAS:
        raise BadPlan(f"--replicas {replicas}: 0 to {MAX_REPLICAS}")
    if topology is Topology.MONOLITH:
        if replicas or addresses:
            raise BadPlan(
                "a monolith has no replicas: use --topology hybrid for a local engine with replicas beside it"
            )
        return 0
    count = replicas if replicas is not None else 0 if addresses else 1
    if topology is Topology.SPLIT and count == 0 and not addresses:
        raise BadPlan("split with --replicas 0 needs a --replica-address to join")
    return count
