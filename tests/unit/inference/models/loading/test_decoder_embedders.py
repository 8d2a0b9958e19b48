"""Folders of decoder embedders, as their makers publish them: a causal model, its last token the vector, prompts by
name. What the engine answers is what transformers gives for each text alone."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from inference_svc.admission import Admission, AdmissionLimits
from inference_svc.catalogue import Catalogue
from inference_svc.engine.engine import Engine
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.models.checkpoint import quiet
from inference_svc.models.defaults import default_folder
from inference_svc.models.loading import load_model
from inference_svc.requests import EmbedWork, Request, Task, Vectors
from support.outlets import RecordingOutlet

torch.set_num_threads(1)

SIZES = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "initializer_range": 0.3,  # so that every part of the model shows in the result
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
FAMILIES: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZES)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**SIZES)),
    "llama": lambda: hf.LlamaModel(hf.LlamaConfig(**SIZES)),
    "mistral, windowed": lambda: hf.MistralModel(hf.MistralConfig(**SIZES, sliding_window=12)),
    "gemma3, windowed": lambda: hf.Gemma3TextModel(hf.Gemma3TextConfig(**SIZES, sliding_window=12)),
}
PROMPT = "Instruct: find what answers the question\nQuery:"
SENTENCE_FILES: dict[str, object] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_lasttoken": True, "include_prompt": True},
    "config_sentence_transformers.json": {"prompts": {"query": PROMPT, "document": ""}, "default_prompt_name": None},
}
TEXTS = ("seam", "a place where a thing can be taken apart " * 4, "one", "two words", "one", "ändern 🚀 " * 9)


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / "model"
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(1)
        FAMILIES[request.param]().save_pretrained(made)
    tokens = default_folder("tiny-chat", tmp_path / "cache", lambda _line: None)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (made / name).write_bytes((tokens / name).read_bytes())
    for name, content in SENTENCE_FILES.items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(json.dumps(content))
    return made


def alone(folder: Path, text: str) -> np.ndarray:
    tokenizer, model = hf.AutoTokenizer.from_pretrained(folder), hf.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        vector = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1].numpy()
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def served(model: LoadedModel, spec: ModelSpec, works: list[EmbedWork]) -> list[list[np.ndarray]]:
    """All at once, so that they are computed together."""
    catalogue, engine, outlet = Catalogue([spec]), Engine([model]), RecordingOutlet()
    catalogue.ready(model)
    with Admission(catalogue, AdmissionLimits(), time.monotonic) as admission:
        for number, work in enumerate(works):
            engine.submit(outlet, number, admission.admit_now(Request(spec.name, work)))
    engine.start()
    outlet.wait_for_end(*range(len(works)))
    assert engine.stop()
    answers = []
    for number in range(len(works)):
        parts = [event for event in outlet.events[number] if isinstance(event, Vectors)]
        found = {one.index: one.values for part in parts for one in part.vectors}
        answers.append([found[index] for index in sorted(found)])
    return answers


def test_vectors_are_those_of_the_last_token_behind_the_named_prompt(folder: Path, tmp_path: Path) -> None:
    spec = ModelSpec("embed", Task.EMBED, str(folder), step_token_budget=48)
    model = load_model(spec, cache_folder=tmp_path / "cache", progress=lambda _line: None)
    assert model.info.dimension_count == 32
    works = [EmbedWork(TEXTS), EmbedWork(TEXTS, prompt_name="query"), EmbedWork(TEXTS, dimension_count=8)]
    plain, queries, short = served(model, spec, works)
    with quiet():
        for text, vector, query, head in zip(TEXTS, plain, queries, short, strict=True):
            expected = alone(folder, text)
            assert float(expected @ vector) > 0.99999, text
            assert float(alone(folder, PROMPT + text) @ query) > 0.99999, text
            assert float(expected[:8] @ head) / np.linalg.norm(expected[:8]) > 0.99999, text
    assert float(plain[0] @ queries[0]) < 0.99, "the prompt must show in the vector of a short text"
