"""A plan is whole and possible, or it is refused with what would do."""

from pathlib import Path
from typing import Any

import pytest
from seam_local.keys import Keys
from seam_local.plan import BadPlan, Topology, checked_plan

KEYS = Keys("a-key-of-enough-characters", "a-key-of-enough-characters")


def plan(topology: Topology = Topology.SPLIT, **given: Any):
    asked: dict[str, Any] = {
        "replicas": None,
        "replica_addresses": (),
        "grpc_port": 0,
        "http_port": 0,
        "keys": KEYS,
        "ready_file": None,
        "grace": 1.0,
    }
    return checked_plan(topology, **(asked | given))


@pytest.mark.parametrize(
    ("topology", "addresses", "count"),
    [
        (Topology.SPLIT, (), 1),
        (Topology.HYBRID, (), 1),
        (Topology.SPLIT, ("127.0.0.1:1",), 0),
        (Topology.HYBRID, ("127.0.0.1:1",), 0),
        (Topology.MONOLITH, (), 0),
    ],
)
def test_replicas_are_started_unless_some_run_already_or_none_are_wanted(topology, addresses, count):
    assert plan(topology, replica_addresses=addresses).replica_count == count


def test_both_kinds_of_replica_may_be_had_together():
    both = plan(Topology.HYBRID, replicas=2, replica_addresses=("host.example:50061", "[::1]:50062"))
    assert (both.replica_count, both.replica_addresses) == (2, ("host.example:50061", "[::1]:50062"))


@pytest.mark.parametrize(
    ("topology", "given", "says"),
    [
        (Topology.MONOLITH, {"replicas": 1}, "hybrid"),
        (Topology.MONOLITH, {"replica_addresses": ("h:1",)}, "hybrid"),
        (Topology.SPLIT, {"replicas": 0}, "--replica-address"),
        (Topology.SPLIT, {"replicas": -1}, "0 to"),
        (Topology.SPLIT, {"replicas": 10_000}, "0 to"),
        (Topology.SPLIT, {"replica_addresses": ("nonsense",)}, "HOST:PORT"),
        (Topology.SPLIT, {"replica_addresses": ("host:0",)}, "HOST:PORT"),
        (Topology.SPLIT, {"replica_addresses": ("host:70000",)}, "HOST:PORT"),
        (Topology.SPLIT, {"replica_addresses": ("h:1", "h:1")}, "twice"),
        (Topology.SPLIT, {"grpc_port": 70000}, "--grpc-port"),
        (Topology.SPLIT, {"http_port": -1}, "--http-port"),
        (Topology.SPLIT, {"grpc_port": 5000, "http_port": 5000}, "one each"),
        (Topology.SPLIT, {"grace": -1.0}, "--grace"),
        (Topology.SPLIT, {"grace": float("nan")}, "--grace"),
        (Topology.SPLIT, {"grace": float("inf")}, "--grace"),
        (Topology.MONOLITH, {"tls": True}, "--tls"),
        (Topology.SPLIT, {"tls": True, "replica_addresses": ("h:1",)}, "--replica-address"),
        (Topology.SPLIT, {"keys": Keys("too-short", "too-short")}, "16 or more"),
        (Topology.SPLIT, {"keys": Keys("two words, one key", "two words, one key")}, "16 or more"),
        (Topology.SPLIT, {"keys": Keys("hauptschlüsselhauptschlüssel", "")}, "16 or more"),
        (Topology.SPLIT, {"ready_file": Path("/no/such/folder/ready.json")}, "--ready-file"),
    ],
)
def test_what_cannot_be_started_is_refused_with_its_option(topology, given, says):
    with pytest.raises(BadPlan, match=says):
        plan(topology, **given)


def test_only_split_needs_a_replica_to_answer():
    assert [plan(topology).has_local_engine for topology in Topology] == [True, False, True]
