"""The page for those who deploy names what is there."""

import re
import subprocess
import sys
from pathlib import Path

from support.edge import ROOT, deploy_tool
from support.manifests import READ_BY, container, environment, workloads

PAGE = (ROOT / "docs/deploying.md").read_text()


def test_every_path_and_setting_is_there() -> None:
    for path in re.findall(r"deploy/[\w./-]+", PAGE):
        assert (ROOT / path).exists(), path
    for variable in re.findall(r"SEAM_\w+", PAGE):
        assert any(variable in known for known in READ_BY.values()), variable


def test_envoys_figures_have_the_names_on_the_page() -> None:
    """The tests of Envoy's limits read the same ones."""
    tests = (ROOT / "tests/integration/envoy/test_edge.py").read_text()
    for name in ("local_rate_limit.new_connections.rate_limited", "downstream_global_cx_overflow"):
        assert name in PAGE
        assert name in tests


def test_the_times_are_those_of_the_manifests() -> None:
    split = workloads("split")
    drain = environment(split["business"])["SEAM_DRAIN_SECONDS"]
    pause = container(split["business"])["lifecycle"]["preStop"]["sleep"]["seconds"]
    longest = container(split["edge"])["lifecycle"]["preStop"]["exec"]["command"][-1]
    said = f"waits {pause} s until it is asked nothing new, then has {drain} s"
    assert said in PAGE
    assert f"up to {longest} s" in PAGE


def test_envoy_takes_what_the_page_has_rendered(tmp_path: Path) -> None:
    (command,) = re.findall(r"python (deploy/envoy/render\.py (?:.|\\\n)*?)\nenvoy", PAGE)
    words = command.replace("\\\n", " ").replace("--out /etc/envoy", f"--out {tmp_path}").split()
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
    envoy = [deploy_tool("envoy"), "--mode", "validate", "-c", str(tmp_path / "envoy.yaml")]
    ended = subprocess.run(envoy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout
