"""The page of metrics, the dashboard and the rules, held to what a real run exposes."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.busy_run import SECRET, BusyRun, Scrape, busy_run
from support.told_processes import KEY

ROOT = Path(__file__).parent.parent.parent.parent
FOLDER = ROOT / "deploy" / "observability"
PROMTOOL = shutil.which("promtool")
SUFFIXES = ("_bucket", "_count", "_sum")
FOREIGN = {"target_info"}  # by Prometheus' own conventions


@pytest.fixture(scope="module")
def run() -> BusyRun:
    return asyncio.run(busy_run())


def documented() -> dict[str, list[tuple[str, str, str, set[str]]]]:
    """Rows of each section: Prometheus' name, OpenTelemetry's, type, labels."""
    found: dict[str, list[tuple[str, str, str, set[str]]]] = {}
    section = ""
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ").split()[0].rstrip(",").lower()
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            labels = set(re.findall(r"`(\w+)`", cells[3]))
            found.setdefault(section, []).append((cells[0].strip("`"), cells[1].strip("`"), cells[2], labels))
    return found


def exposed(*scrapes: Scrape) -> dict[str, tuple[str, set[str]]]:
    """Type and labels by Prometheus' name."""
    found: dict[str, tuple[str, set[str]]] = {}
    for one in scrapes:
        for family, kind in one.kinds.items():
            if family in FOREIGN:
                continue
            name = f"{family}_total" if kind == "counter" else family
            had = {label for n, labels, _ in one.samples if n.startswith(family) for label in labels}
            kept = found.get(name, (kind, set()))[1]
            found[name] = (kind, kept | (had - {"le"}))
    return found


@pytest.mark.parametrize("service", ["business", "inference"])
def test_the_page_lists_what_is_exposed_and_nothing_else(run: BusyRun, service: str) -> None:
    scrapes = [one for name, one in [*run.healthy.items(), *run.killed.items()] if name.startswith(service)]
    pages = documented()
    told = {name: (kind, labels) for name, _, kind, labels in [*pages[service], *pages["both"]]}
    found = exposed(*scrapes)
    assert set(found) == set(told)
    for name, (kind, labels) in found.items():
        assert kind == told[name][0], name
        assert labels <= told[name][1], name  # error_type is there only where something failed
        assert told[name][1] - labels <= {"error_type"}, name


def test_otlp_carries_the_same_by_the_names_of_the_page(run: BusyRun) -> None:
    assert run.otlp_names == {otel for rows in documented().values() for _, otel, _, _ in rows}


def test_what_callers_invent_makes_no_series(run: BusyRun) -> None:
    values = {value for one in run.healthy.values() for _, labels, _ in one.samples for value in labels.values()}
    assert "invented" not in values
    assert not any(KEY in value or "acme" in value or SECRET in value for value in values)


def test_the_numbers_add_up(run: BusyRun) -> None:
    business = run.healthy["business"]
    replicas = [run.healthy["inference 0"], run.healthy["inference 1"]]
    assert business.value("seam_replicas", seam_replica_state="ready") == 2
    assert business.value("seam_refusals_total", seam_reason="MODEL_NOT_FOUND") == 3
    predicted = business.value(
        "rpc_server_call_duration_seconds_count", rpc_method="seam.business.v1.PredictService/Predict"
    )
    assert predicted == 4
    labels = {"gen_ai_operation_name": "chat", "gen_ai_token_type": "output"}
    assert business.value("gen_ai_client_token_usage_sum", **labels) == 4 * 12
    for one in replicas:
        assert 0 < one.value("seam_engine_step_tokens_total") <= one.value("seam_engine_step_capacity_total")
    assert sum(one.value("seam_cancel_to_free_seconds_count") for one in replicas) >= 4
    assert sum(one.value("seam_tokens_total", seam_kind="output") for one in replicas) == 4 * 12
    after = run.killed["business"]
    assert after.value("seam_replicas", seam_replica_state="ready") == 0
    assert after.value("seam_link_resumes_total", seam_outcome="failed") >= 1
    assert after.value("rpc_client_call_duration_seconds_count", error_type="UNAVAILABLE") == 2


def expressions() -> Iterable[str]:
    for group in rules()["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def rules() -> Any:
    return yaml.safe_load((FOLDER / "rules.yaml").read_text())


def test_every_metric_of_the_rules_and_the_dashboard_exists(run: BusyRun) -> None:
    known = {rule["record"] for group in rules()["groups"] for rule in group["rules"] if "record" in rule}
    for name in exposed(*run.healthy.values(), *run.killed.values()):
        known |= {name, *(name + suffix for suffix in SUFFIXES)}
    used = set()
    for expression in expressions():
        bare = re.sub(r'"[^"]*"', "", re.sub(r"\[[^\]]*\]", "", expression))
        bare = re.sub(r"\{[^}]*\}", "", re.sub(r"\b(by|ignoring|on)\s*\([^)]*\)", "", bare))
        used |= set(re.findall(r"\b(?:seam|rpc|http|gen_ai)[:_][a-z0-9_:]+", bare))
    assert len(used) > 25
    assert used - known == set()


def test_every_alert_has_its_entry_in_the_runbooks() -> None:
    alerts = {rule["alert"]: rule for group in rules()["groups"] for rule in group["rules"] if "alert" in rule}
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(alerts)
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"


# --- the rules, as Prometheus itself reads them ---

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not here: apt-get install prometheus")


def promtool(*words: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *words], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_rules_and_the_configuration_are_well_formed() -> None:
    promtool("check", "rules", "rules.yaml")
    promtool("check", "config", "--syntax-only", "prometheus.yaml")


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_before() -> None:
    promtool("test", "rules", "rules_test.yaml")


def series(scrape: Scrape, instance: str, before: Scrape | None = None, minutes: int = 30) -> list[dict[str, str]]:
    """What was scraped, going on for so long as it was: the same again each minute for a gauge, growing by as much
    again for what only grows. With `before`, that went on as long before."""
    told = []
    for name, labels, value in scrape.samples:
        inside = ",".join(f'{key}="{each}"' for key, each in {**labels, "instance": instance}.items())
        kind = next((k for family, k in scrape.kinds.items() if name.startswith(family)), "gauge")
        grows = value if kind in ("counter", "histogram") else 0.0
        earlier = next((v for n, had, v in before.samples if (n, had) == (name, labels)), 0.0) if before else value
        first = f"{earlier}x{minutes} " if before else ""
        rest = f"{value}+{grows}x{minutes}" if not before else f"{value}x{minutes}"
        told.append({"series": f"{name}{{{inside}}}", "values": first + rest})
    return told


def alerts_at(moment: str, firing: set[str]) -> list[dict[str, Any]]:
    """Expectations for every alert: labels of those that fire are of no interest here, so each is asked for by name."""
    names = [rule["alert"] for group in rules()["groups"] for rule in group["rules"] if "alert" in rule]
    return [
        {
            "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
            "eval_time": moment,
            "exp_samples": [{"labels": "{}", "value": 1 if name in firing else 0}],
        }
        for name in names
    ]


@needs_promtool
def test_nothing_is_alerted_while_a_real_run_goes_well_and_its_death_is(run: BusyRun, tmp_path: Path) -> None:
    healthy = [one for name, scraped in run.healthy.items() for one in series(scraped, name)]
    killed = series(run.killed["business"], "business", before=run.healthy["business"])
    tests = {
        "rule_files": [str(FOLDER / "rules.yaml")],
        "evaluation_interval": "1m",
        "tests": [
            {"interval": "1m", "input_series": healthy, "promql_expr_test": alerts_at("29m", set())},
            {
                "interval": "1m",
                "input_series": killed,
                "promql_expr_test": [
                    *alerts_at("29m", set()),
                    *alerts_at("34m", {"SeamNoReplica", "SeamAnswersCutOff", "SeamFaults"}),
                    *alerts_at("45m", {"SeamNoReplica", "SeamReplicaAway"}),
                ],
            },
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    promtool("test", "rules", str(file))


# --- lines of log ---


def test_each_request_has_one_line_at_each_service_and_its_trace_joins_them(run: BusyRun) -> None:
    calls = [line for line in run.lines["business"] if line["outcome"] == "ok" and line.get("operation") == "chat"]
    assert len(calls) == 4
    for line in calls:
        assert line["tenant"] == "acme"
        assert line["output_tokens"] == 12
        assert {"request_id", "key_id", "model", "queue_ms", "prefill_ms", "decode_ms", "total_ms"} <= line.keys()
        at_replica = [other for other in run.lines["inference"] if other["trace_id"] == line["trace_id"]]
        assert [other["outcome"] for other in at_replica] == ["ok"]
    reasons = [line["reason"] for line in run.lines["business"] if line["outcome"] == "failed"]
    assert reasons.count("MODEL_NOT_FOUND") == 3


def test_lines_hold_neither_keys_nor_what_was_asked(run: BusyRun) -> None:
    assert run.raw_log
    assert KEY not in run.raw_log
    assert SECRET not in run.raw_log
