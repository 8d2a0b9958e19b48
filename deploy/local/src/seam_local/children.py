"""How each kind of process is started and what its ready file says. Settings go by environment, as anywhere else."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seam_local.certificates import LinkCertificates
from seam_local.child import Child
from seam_local.cores import usable_cores
from seam_local.plan import Plan, Topology
from seam_local.ports import LOOPBACK

ANY_PORT = f"{LOOPBACK}:0"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A process to be started."""

    name: str
    module: str
    environment: Mapping[str, str]
    ready_file: Path

    async def start(self, say: Callable[[str, str], None]) -> Child:
        """With the interpreter that runs now; it ends when this process does, however that comes about."""
        tied = ["--exit-with-parent", str(os.getpid())]
        words = [sys.executable, "-m", self.module, "--ready-file", str(self.ready_file), *tied]
        return await Child.start(self.name, words, self.environment, self.ready_file, say)


@dataclass(frozen=True, slots=True)
class BusinessReady:
    """Where the business serves; `inference` is its own engine's address, where it has one."""

    grpc: str
    http: str
    inference: str | None
    metrics: tuple[str, ...] = ()


def inference(
    plan: Plan,
    name: str,
    address: str,
    environment: Mapping[str, str],
    ready_file: Path,
    certificates: LinkCertificates | None = None,
    metrics: str = "",
) -> Wanted:
    """An inference server, at the addresses that it had before (empty takes any)."""
    link = certificates.of_inference() if certificates else proposed_link(environment)
    settings = {"SEAM_INFERENCE_LISTEN": address or ANY_PORT, "SEAM_DRAIN_SECONDS": str(plan.grace), **link}
    if metrics:
        settings["SEAM_INFERENCE_METRICS_LISTEN"] = metrics
    return Wanted(name, "inference_svc", _settled(plan, environment, settings), ready_file)


def business(
    plan: Plan,
    replicas: tuple[str, ...],
    environment: Mapping[str, str],
    ready_file: Path,
    certificates: LinkCertificates | None = None,
) -> Wanted:
    """The business server, with an engine of its own where the plan says so."""
    link = certificates.of_business() if certificates else proposed_link(environment)
    module = "seam_local.one_process" if plan.topology is Topology.HYBRID else "business_svc"
    return Wanted(
        "business", module, _settled(plan, environment, {**business_settings(plan, replicas), **link}), ready_file
    )


def business_settings(plan: Plan, replicas: tuple[str, ...]) -> dict[str, str]:
    """The variables that a plan decides."""
    return {
        "SEAM_API_KEYS": plan.keys.setting,
        "SEAM_REPLICAS": ",".join(replicas),
        "SEAM_GRPC_LISTEN": f"{LOOPBACK}:{plan.grpc_port}",
        "SEAM_HTTP_LISTEN": f"{LOOPBACK}:{plan.http_port}",
        "SEAM_INFERENCE_LISTEN": ANY_PORT,  # of the engine in the business process, where there is one
        "SEAM_DRAIN_SECONDS": str(plan.grace),
    }


def proposed_link(environment: Mapping[str, str]) -> dict[str, str]:
    """Plaintext, which does not leave this machine, unless the environment has certificates."""
    return {} if environment.get("SEAM_LINK_CERTIFICATE") else {"SEAM_LINK_PLAINTEXT": "true"}


def inference_address(content: Mapping[str, Any]) -> str:
    """Of an inference server's ready file."""
    return str(content["grpc"])


def metrics_addresses(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Where metrics are served, of a ready file: several where a process holds both services."""
    told = content.get("metrics", ())
    return (told,) if isinstance(told, str) else tuple(told)


def business_ready(content: Mapping[str, Any]) -> BusinessReady:
    """Of a business server's ready file."""
    inference = content.get("inference")
    return BusinessReady(
        str(content["grpc"]), str(content["http"]), str(inference) if inference else None, metrics_addresses(content)
    )


def torch_threads(plan: Plan, cores: int) -> int:
    """Engines share the cores but one, which is left to everything else. A step whose threads do not all have a core
    waits for the one that has none, many times the step's own length."""
    return max(1, (cores - 1) // max(1, plan.replica_count + plan.has_local_engine))


def proposed_settings(plan: Plan) -> dict[str, str]:
    """The variables that a plan only proposes: the environment goes before them."""
    return {
        "SEAM_TORCH_THREADS": str(torch_threads(plan, usable_cores())),
        "SEAM_METRICS_LISTEN": ANY_PORT,
        "SEAM_INFERENCE_METRICS_LISTEN": ANY_PORT,
    }


def _settled(plan: Plan, environment: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """Children write their lines at once."""
    return {**proposed_settings(plan), **environment, "PYTHONUNBUFFERED": "1", **settings}
