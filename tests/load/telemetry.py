"""What telling costs, at full load: `python -m load.telemetry` from tests/.

The same system (`seam-up`, split, real models) four times, each told to tell differently, measured in turn, round by
round: nothing; metrics, scraped every second; metrics, a line of log for each request and every trace, to a receiver
that is there; the same, to one that is not. Ratios are to the one that tells nothing, of the same round; the median
counts. CPU is that of the services' processes for each text or token.
"""

import argparse
import asyncio
import statistics
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import grpc
import psutil
from support.seam_up import SeamUp, seam_up

from load.report import report
from load.whole_way import THREADS, Run, measure

NOBODY = "http://127.0.0.1:1"
CONCURRENCY = 64
MODES = ("off", "metrics", "all, received", "all, no receiver")


@contextmanager
def swallowing_receiver() -> Iterator[str]:
    """Takes whatever is sent and reads none of it: what a collector does is not Seam's cost."""

    class Everything(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

    server = grpc.server(ThreadPoolExecutor(2), handlers=(Everything(),), options=(("grpc.so_reuseport", 0),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def scraped(addresses: Sequence[str]) -> Iterator[None]:
    """Every second, while inside."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(1.0):
            for address in addresses:
                urllib.request.urlopen(f"http://{address}/metrics", timeout=30).read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def settings(mode: str, receiver: str) -> dict[str, str]:
    common = {"SEAM_TORCH_THREADS": THREADS, "OMP_NUM_THREADS": THREADS}
    if mode == "off":
        return {**common, "SEAM_LOG_REQUESTS": "off", "SEAM_METRICS_LISTEN": "", "SEAM_INFERENCE_METRICS_LISTEN": ""}
    if mode == "metrics":
        return {**common, "SEAM_LOG_REQUESTS": "off"}
    endpoint = receiver if mode == "all, received" else NOBODY
    return {**common, "SEAM_LOG_REQUESTS": "json", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint}


@dataclass
class Measured:
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # seconds a unit
    others: list[float] = field(default_factory=list)


def cpu_of(system: SeamUp) -> float:
    """Of both services, not of seam-up that shows their lines."""
    pids = [system.ready["pids"]["business"], *system.ready["pids"]["inference"]]
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def one_round(work: str, systems: dict[str, SeamUp], measured: dict[str, Measured], order: Sequence[str]) -> None:
    for mode in order:
        system = systems[mode]
        before = cpu_of(system)
        with scraped(system.ready["metrics"]):
            run: Run = asyncio.run(measure(system, work, CONCURRENCY))
        measured[mode].rates.append(run.rate)
        measured[mode].cpu.append((cpu_of(system) - before) / run.units)
        measured[mode].others.append(run.others)


def rows_of(work: str, measured: dict[str, Measured]) -> list[dict[str, object]]:
    off = measured["off"]
    return [
        {
            "work": f"{work}, {mode}",
            "rate": statistics.median(one.rates),
            "rate_to_off": statistics.median(a / b for a, b in zip(one.rates, off.rates, strict=True)),
            "cpu_us": 1e6 * statistics.median(one.cpu),
            "cpu_to_off": statistics.median(a / b for a, b in zip(one.cpu, off.cpu, strict=True)),
            "others_share": max(one.others),
        }
        for mode, one in measured.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs="*", default=["embed", "chat"])
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    with ExitStack() as stack:
        receiver = stack.enter_context(swallowing_receiver())
        systems = {
            mode: stack.enter_context(seam_up("--topology", "split", **settings(mode, receiver))) for mode in MODES
        }
        for work in options.work:
            measured = {mode: Measured() for mode in MODES}
            for number in range(options.rounds):
                print(f"{work}: round {number + 1} of {options.rounds} ...", flush=True)
                turned = MODES[number % len(MODES) :] + MODES[: number % len(MODES)]
                one_round(work, systems, measured, turned)
            rows += rows_of(work, measured)
    report(
        "What telling costs at full load",
        rows,
        name="telemetry",
        note=f"closed loop of {CONCURRENCY}; texts or tokens a second; medians of {options.rounds} rounds",
    )


if __name__ == "__main__":
    main()
