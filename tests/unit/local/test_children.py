"""What children are told."""

from pathlib import Path

import pytest
from seam_local.children import business, inference, torch_threads
from seam_local.keys import Keys
from seam_local.plan import Plan, Topology

KEYS = Keys("the-key-of-this-test", "the-key-of-this-test")


def plan(topology, replicas):
    return Plan(topology, replicas, (), 0, 0, KEYS)


@pytest.mark.parametrize(
    ("topology", "replicas", "cores", "threads"),
    [
        (Topology.SPLIT, 1, 8, 7),
        (Topology.SPLIT, 2, 9, 4),
        (Topology.HYBRID, 1, 9, 4),
        (Topology.SPLIT, 4, 2, 1),
        (Topology.SPLIT, 1, 2, 1),
        (Topology.SPLIT, 0, 1, 1),
        (Topology.MONOLITH, 0, 8, 7),
    ],
)
def test_engines_share_the_cores_but_one(topology, replicas, cores, threads):
    assert torch_threads(plan(topology, replicas), cores) == threads


def test_the_environment_may_say_otherwise():
    told = inference(plan(Topology.SPLIT, 2), "inference-1", "", {"SEAM_TORCH_THREADS": "7"}, Path("ready.json"))
    assert told.environment["SEAM_TORCH_THREADS"] == "7"


def test_a_replica_takes_any_port_at_first_and_its_own_again():
    for address, listens in (("", "127.0.0.1:0"), ("127.0.0.1:4711", "127.0.0.1:4711")):
        told = inference(plan(Topology.SPLIT, 2), "inference-1", address, {}, Path("ready.json"))
        assert told.environment["SEAM_INFERENCE_LISTEN"] == listens


def test_the_business_learns_keys_and_replicas_whatever_the_environment_says():
    environment = {"SEAM_REPLICAS": "elsewhere:1", "SEAM_API_KEYS": "some-key-of-yesterday", "HOME": "/home/someone"}
    told = business(plan(Topology.SPLIT, 2), ("127.0.0.1:1", "127.0.0.1:2"), environment, Path("ready.json"))
    assert told.environment["SEAM_REPLICAS"] == "127.0.0.1:1,127.0.0.1:2"
    assert told.environment["SEAM_API_KEYS"] == KEYS.setting
    assert told.environment["HOME"] == "/home/someone"


def test_only_a_hybrid_has_models_in_its_business_process():
    modules = {t: business(plan(t, 1), (), {}, Path("ready.json")).module for t in (Topology.SPLIT, Topology.HYBRID)}
    assert modules == {Topology.SPLIT: "business_svc", Topology.HYBRID: "seam_local.one_process"}
