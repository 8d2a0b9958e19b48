"""One way of embedding the benchmark's texts, in a process of its own: `python -m load.embedding_peers NAME`.

Prints one line of JSON: texts, tokens, seconds, others (share of the machine that somebody else used), and what a peer
has to tell of itself. All read the same texts with the same tokenizer, one by one, inside the time that is measured.
"""

import argparse
import json
import queue
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference_svc.admission import Admission, AdmissionLimits
from inference_svc.catalogue import Catalogue
from inference_svc.engine.engine import Engine
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.models.defaults import default_folder
from inference_svc.models.encoder_runner import PackedEncoderRunner
from inference_svc.models.loading import load_model
from inference_svc.requests import EmbedWork, EncodedInput, Event, Failed, Finished, Request, Task, Truncation, Vectors
from inference_svc.results import finish_vectors
from inference_svc.settings import read_settings

from load.benchmark_models import texts
from load.report import Meter

BUDGETS = (256, 512, 1024, 2048, 4096)
PADDED_BATCH = 32
WARM = 64  # texts before the time is taken
SAMPLE = 400  # texts on which the best budget is found

Told = dict[str, Any]
Floats = "np.ndarray[Any, np.dtype[np.float32]]"


def minilm() -> LoadedModel:
    spec = ModelSpec("embed", Task.EMBED, "embedded:minilm")
    return load_model(spec, cache_folder=read_settings(listen="").cache_folder, progress=lambda _: None)


def as_request(text: str) -> Request:
    return Request("embed", EmbedWork((text,), truncation=Truncation.DROP_END))


class ClosedLoop:
    """Keeps `in_flight` requests at the engine from a thread of its own, as an event loop would."""

    def __init__(self, engine: Engine, admission: Admission, in_flight: int) -> None:
        self._engine = engine
        self._admission = admission
        self._in_flight = in_flight
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._vectors: dict[int, Any] = {}

    def deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        for request_id, event in events:
            match event:
                case Vectors(vectors=vectors):
                    self._vectors[request_id] = vectors[0].values
                case Failed(error=error):
                    raise error
                case Finished():
                    self._ended.put(request_id)

    def run(self, given: Sequence[str]) -> list[Any]:
        coming = iter(enumerate(given))
        for request_id, text in islice(coming, self._in_flight):
            self._submit(request_id, text)
        for _ in given:
            self._ended.get(timeout=120)
            for request_id, text in islice(coming, 1):
                self._submit(request_id, text)
        return [self._vectors.pop(request_id) for request_id in range(len(given))]

    def _submit(self, request_id: int, text: str) -> None:
        self._engine.submit(self, request_id, self._admission.admit_now(as_request(text)))


def seam_engine(given: Sequence[str], in_flight: int) -> tuple[Meter, list[Any], Told]:
    """Seam's engine, former and runner, driven without a wire by a closed loop: a text comes when one is answered."""
    model = minilm()
    sizes: list[int] = []
    encode = model.runner.encode  # type: ignore[union-attr]

    def counted(inputs: Sequence[EncodedInput]) -> Any:
        sizes.append(sum(len(one.token_ids) for one in inputs))
        return encode(inputs)

    model.runner.encode = counted  # type: ignore[union-attr, method-assign]
    engine = Engine([model])
    catalogue = Catalogue([ModelSpec("embed", Task.EMBED, "embedded:minilm")])
    catalogue.ready(model)
    engine.start()
    with Admission(catalogue, AdmissionLimits(), time.monotonic) as admission:
        loop = ClosedLoop(engine, admission, in_flight)
        loop.run(given[:WARM])
        sizes.clear()
        before = engine.idle_seconds()
        with Meter() as meter:
            vectors = loop.run(given)
        after = engine.idle_seconds()
    engine.stop()
    shares = {f"{cause}_share": (after[cause] - before.get(cause, 0.0)) / meter.seconds for cause in after}
    return meter, vectors, {**shares, "passes": len(sizes), "tokens_a_pass": sum(sizes) / len(sizes)}


def offline_packed(given: Sequence[str], _: int) -> tuple[Meter, list[Any], Told]:
    """The limit: everything is there at the start, sorted by length, packed by the budget that suits it best."""
    model = minilm()
    runner = model.runner
    assert isinstance(runner, PackedEncoderRunner)

    def embed(some: Sequence[str], budget: int) -> tuple[Meter, list[Any]]:
        work = EmbedWork(("",))
        vectors: list[Any] = [None] * len(some)
        with Meter() as meter:
            read = [model.tokenizer.truncate_pair(text, None, 256) for text in some]
            inputs = [EncodedInput(at, tuple(ids), None if k is None else tuple(k)) for at, (ids, k) in enumerate(read)]
            for batch in packed(sorted(inputs, key=lambda one: len(one.token_ids)), budget):
                for one, row in zip(batch, finish_vectors(work, model.info, runner.encode(batch)), strict=True):
                    vectors[one.index] = row
        return meter, vectors

    embed(given[:WARM], BUDGETS[0])
    best = min(BUDGETS, key=lambda budget: embed(given[:SAMPLE], budget)[0].seconds)
    meter, vectors = embed(given, best)
    return meter, vectors, {"budget": best}


def packed(inputs: Sequence[EncodedInput], budget: int) -> list[list[EncodedInput]]:
    batches: list[list[EncodedInput]] = []
    tokens = budget
    for one in inputs:
        if tokens + len(one.token_ids) > budget:
            batches.append([])
            tokens = 0
        batches[-1].append(one)
        tokens += len(one.token_ids)
    return batches


def padded_as_they_come(given: Sequence[str], _: int) -> tuple[Meter, list[Any], Told]:
    """What most servers do: batches in order of arrival, padded to their longest, through transformers' own model."""
    from transformers import AutoModel, AutoTokenizer

    folder = default_folder("minilm", Path(read_settings(listen="").cache_folder), lambda _: None)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # off the mapped file, so that no page-in is measured

    def embed(some: Sequence[str]) -> list[Any]:
        vectors: list[Any] = []
        for start in range(0, len(some), PADDED_BATCH):
            batch = list(some[start : start + PADDED_BATCH])
            inputs = tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
            mask = inputs["attention_mask"][..., None]
            pooled = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
            vectors += list(torch.nn.functional.normalize(pooled).numpy())
        return vectors

    with torch.inference_mode():
        embed(given[:WARM])
        with Meter() as meter:
            vectors = embed(given)
    return meter, vectors, {}


PEERS: dict[str, Callable[[Sequence[str], int], tuple[Meter, list[Any], Told]]] = {
    "seam": seam_engine,
    "offline, sorted and packed": offline_packed,
    "padded batches of 32 as they come": padded_as_they_come,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    meter, vectors, told = PEERS[options.peer](texts(options.texts), options.in_flight)
    figures = {"texts": options.texts, "seconds": meter.seconds, "others": meter.others}
    sums = np.stack(vectors).astype(np.float64) @ np.linspace(-1, 1, len(vectors[0]))
    print(json.dumps({**figures, "check": [round(float(one), 4) for one in sums[:: len(sums) // 8]], **told}))


if __name__ == "__main__":
    main()
