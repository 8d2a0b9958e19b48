"""The manifests as trees, with what a test wants to know of them."""

import copy
import functools
import json
import os
import subprocess
from typing import Any

import business_svc.settings
import inference_svc.settings
import yaml

from support.edge import ROOT, deploy_tool

OVERLAYS = ("monolith", "split", "gpu", "scale-to-zero")
Tree = dict[str, Any]
# Read by the telemetry of both services, beside what OpenTelemetry itself reads.
TELEMETRY = {"SEAM_METRICS_LISTEN", "SEAM_INFERENCE_METRICS_LISTEN", "SEAM_LOG_REQUESTS", "SEAM_LOG_CONTENT"}


@functools.cache
def built(overlay: str) -> str:
    """What kustomize makes of an overlay."""
    words = [deploy_tool("kubectl"), "kustomize", str(ROOT / "deploy/k8s/overlays" / overlay)]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def resources(overlay: str, *kinds: str) -> list[Tree]:
    every = [each for each in copy.deepcopy(_parsed(overlay)) if each]
    return [each for each in every if not kinds or each["kind"] in kinds]


@functools.cache
def _parsed(overlay: str) -> list[Tree]:
    return list(yaml.load_all(built(overlay), yaml.CSafeLoader))


def workloads(overlay: str) -> dict[str, Tree]:
    """By name: Deployments and StatefulSets."""
    return {each["metadata"]["name"]: each for each in resources(overlay, "Deployment", "StatefulSet")}


def pod(workload: Tree) -> Tree:
    return workload["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def container(workload: Tree) -> Tree:
    (only,) = pod(workload)["containers"]
    return only  # type: ignore[no-any-return]


def environment(workload: Tree) -> dict[str, str]:
    """Values that the manifest names; a secret's are empty."""
    return {each["name"]: each.get("value", "") for each in container(workload).get("env", ())}


@functools.cache
def composed() -> Tree:
    words = [
        deploy_tool("docker-compose"),
        "-f",
        str(ROOT / "deploy/compose/compose.yaml"),
        "config",
        "--format",
        "json",
    ]
    chosen = os.environ | {"SEAM_API_KEYS": "me:a-key-that-is-long-enough"}
    told = subprocess.run(words, check=True, stdout=subprocess.PIPE, env=chosen, text=True).stdout
    return json.loads(told)  # type: ignore[no-any-return]


def variables(*settings: Any) -> set[str]:
    """The environment variables that settings read."""
    named = set()
    for kind in settings:
        for name, field in kind.model_fields.items():
            alias = field.validation_alias
            named.add(alias.choices[0] if alias is not None else f"SEAM_{name.upper()}")
    return named | TELEMETRY


BUSINESS = variables(business_svc.settings.Settings)
INFERENCE = variables(inference_svc.settings.Settings)
READ_BY = {
    "business": BUSINESS,
    "inference": INFERENCE,
    "monolith": BUSINESS | INFERENCE,
}
