"""Seam started by its command: what the ready file says is there, and nothing is left when it goes, however it goes."""

import json
import os
import signal
import socket

import psutil
import pytest
from seam_client import Seam
from support.processes import is_running, listening_ports, wait_until_closed, wait_until_gone
from support.seam_up import seam_up

TOPOLOGIES = {
    "monolith": ["--topology", "monolith"],
    "split": ["--topology", "split", "--replicas", "2"],
    "hybrid": ["--topology", "hybrid", "--replicas", "1"],
    "split, encrypted": ["--topology", "split", "--replicas", "1", "--tls"],
    "hybrid, encrypted": ["--topology", "hybrid", "--replicas", "1", "--tls"],
}

pytestmark = pytest.mark.slow


def nothing_is_left_of(family, ports):
    wait_until_gone(family)
    wait_until_closed(ports)


@pytest.mark.parametrize("options", TOPOLOGIES.values(), ids=TOPOLOGIES.keys())
def test_all_that_the_ready_file_names_serves_and_sigterm_leaves_nothing(options):
    with seam_up(*options) as up:
        family, ports = up.family(), up.ports()
        assert set(ports) <= listening_ports()
        assert all(is_running(pid) for pid in [up.ready["pids"]["business"], *up.ready["pids"]["inference"]])
        with Seam(up.ready["grpc"], api_key=up.ready["api_key"]) as seam:
            assert {model.name for model in seam.models()} == {"chat", "embed", "score"}
            with seam.chat("What is a seam?", max_output_tokens=8) as answer:
                assert answer.text()
            assert answer.finished.usage.output_token_count == 8
        assert up.stop() == 0
        assert not up.ready_file.exists()
        nothing_is_left_of(family, ports)


def test_the_processes_of_split_are_as_many_as_asked_for():
    with seam_up(*TOPOLOGIES["split"]) as up:
        pids = [up.ready["pids"]["business"], *up.ready["pids"]["inference"]]
        assert len(pids) == len(up.ready["inference"]) + 1 == 3
        assert set(up.family()) == {up.process.pid, *pids}
        assert up.stop(signal.SIGINT) == 0


def test_a_split_business_process_holds_no_torch():
    with seam_up("--topology", "split") as up:
        maps = psutil.Process(up.ready["pids"]["business"]).memory_maps()
        assert not [each.path for each in maps if "torch" in each.path]


@pytest.mark.parametrize("victim", ["business", "inference", "seam-up"])
def test_kill_9_of_any_process_leaves_no_process_and_no_port(victim):
    with seam_up("--topology", "split", "--replicas", "1") as up:
        family, ports = up.family(), up.ports()
        pids = {
            "business": up.ready["pids"]["business"],
            "inference": up.ready["pids"]["inference"][0],
            "seam-up": up.process.pid,
        }
        os.kill(pids[victim], signal.SIGKILL)
        assert up.end() == (-signal.SIGKILL if victim == "seam-up" else 1)
        nothing_is_left_of(family, ports)
        if victim != "seam-up":
            assert "was killed by SIGKILL" in up.output
            assert str(pids[victim]) in up.output
            assert not up.ready_file.exists()


def test_kill_9_of_seam_up_while_it_starts_leaves_nothing():
    with seam_up("--topology", "split", "--replicas", "2", ready=False) as up:
        up.wait_until(lambda: len(up.family()) == 3, "two replicas that start")
        family = up.family()
        up.process.kill()
        up.end()
        wait_until_gone(family)


def test_a_replica_that_dies_beside_another_is_started_again_where_it_was():
    with seam_up("--topology", "split", "--replicas", "2") as up:
        before = up.ready
        os.kill(before["pids"]["inference"][0], signal.SIGKILL)
        with Seam(before["grpc"], api_key=before["api_key"]) as seam:
            assert seam.embed(["answered by the other one"]).embeddings
            up.wait_until(lambda: json.loads(up.ready_file.read_text()) != before, "the new pid in the ready file")
            up.wait_ready()
            assert up.ready["inference"] == before["inference"]
            assert up.ready["pids"]["inference"][0] != before["pids"]["inference"][0]
            assert up.ready["pids"]["inference"][1] == before["pids"]["inference"][1]
            up.wait_until(
                lambda: [replica.state.value for replica in seam.status().replicas] == ["ready", "ready"],
                "both replicas in use",
            )
        assert up.stop() == 0


def test_an_answer_goes_on_from_another_replica_when_its_own_is_killed():
    with (
        seam_up("--topology", "split", "--replicas", "2") as up,
        Seam(up.ready["grpc"], api_key=up.ready["api_key"]) as seam,
    ):
        asked = {"max_output_tokens": 300, "ignore_end_token": True}
        with seam.chat("Go on.", **asked) as answer:
            unbroken = answer.text()
        with seam.chat("Go on.", **asked) as answer:
            next(iter(answer))
            busy = next(replica.address for replica in seam.status().replicas if replica.live_request_count)
            os.kill(up.ready["pids"]["inference"][up.ready["inference"].index(busy)], signal.SIGKILL)
            assert answer.text() == unbroken
            assert answer.finished.usage.output_token_count == 300


@pytest.mark.parametrize("topology", ["monolith", "split"])
def test_an_answer_under_way_is_finished_before_everything_stops(topology):
    with seam_up("--topology", topology, "--grace", "60") as up:
        with (
            Seam(up.ready["grpc"], api_key=up.ready["api_key"]) as seam,
            seam.chat("Go on.", max_output_tokens=100, ignore_end_token=True) as answer,
        ):
            next(iter(answer))
            up.process.send_signal(signal.SIGTERM)
            answer.text()
            assert answer.finished.usage.output_token_count == 100
        assert up.end() == 0


def test_a_second_signal_stops_at_once_and_leaves_nothing():
    with (
        seam_up("--topology", "split", "--replicas", "1") as up,
        Seam(up.ready["grpc"], api_key=up.ready["api_key"]) as seam,
    ):
        family, ports = up.family(), up.ports()
        with seam.chat("Go on.", max_output_tokens=1900, ignore_end_token=True, timeout=60) as answer:
            next(iter(answer))
            up.process.send_signal(signal.SIGTERM)
            up.wait_until(lambda: "once more to stop at once" in up.output, "the word that it stops")
            assert up.stop(signal.SIGINT) == 128 + signal.SIGINT
        nothing_is_left_of(family, ports)


def test_replicas_that_run_already_are_joined_and_left_running():
    with seam_up("--topology", "split", "--replicas", "1") as first:
        address = first.ready["inference"][0]
        with seam_up("--topology", "split", "--replicas", "0", "--replica-address", address) as second:
            assert second.ready["inference"] == [address]
            assert second.ready["pids"]["inference"] == []
            with Seam(second.ready["grpc"], api_key=second.ready["api_key"]) as seam:
                assert len(seam.embed(["joined"]).embeddings) == 1
            assert second.stop() == 0
        assert is_running(first.ready["pids"]["inference"][0])


def test_a_taken_port_is_refused_before_anything_starts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with seam_up("--grpc-port", str(port), ready=False) as up:
            assert up.end() == 2
            assert f"port {port} is taken" in up.output


def test_a_replica_that_cannot_start_is_named_with_its_last_words():
    with seam_up("--topology", "split", ready=False, SEAM_CHAT_MODEL="/no/such/model") as up:
        family = up.family()
        assert up.end() == 1
        assert "inference-1" in up.output
        assert "exit code" in up.output
        assert "/no/such/model" in up.output
        wait_until_gone(family)


def test_a_wrong_setting_of_a_monolith_is_one_plain_line():
    with seam_up("--topology", "monolith", ready=False, SEAM_CHAT_SLOT_COUNT="abc") as up:
        assert up.end() == 2
        assert "SEAM_CHAT_SLOT_COUNT" in up.output
        assert "'abc'" in up.output
        assert "Traceback" not in up.output
