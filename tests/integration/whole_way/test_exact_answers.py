"""Through every topology, answers are those of the plain model run alone."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from inference_svc.models.defaults import default_folder
from inference_svc.settings import read_settings
from seam_client import AsyncSeam, Started, Text
from support.seam_up import SeamUp
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

SENTENCES = (
    "Seam serves machine-learning models behind a contract.",
    "Business logic and ML are two packages that know each other only through protobuf.",
    "The same code runs as one process, as two fleets, or as both, by one flag.",
    "A cancelled request frees its slot within one step of the cancel's arrival.",
    "Bad input gets a clear error that names the field and the limit.",
    "Überall gilt derselbe Vertrag — 同じ契約がどこでも有効です。 🚀",
)
NEAR_TIE = 1e-4  # logits closer than this may come out in either order in another batch
ALLOWED_NEAR_TIES = 2


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Prompt:
    text: str
    count: int


def mixed_prompts(count: int = 64) -> list[Prompt]:
    """Of one to about 200 words, asking for 4 to 48 tokens."""
    draw = random.Random(5)
    words = " ".join(SENTENCES).split()
    return [
        Prompt(" ".join(draw.choice(words) for _ in range(draw.choice([1, 3, 9, 30, 80, 200]))), draw.randint(4, 48))
        for _ in range(count)
    ]


@cache
def plain(kind: str) -> tuple[Any, Any]:
    """The tokenizer and model as transformers alone has them."""
    folder = default_folder(kind, read_settings().cache_folder, lambda _: None)
    family = AutoModelForCausalLM if kind == "tiny-chat" else AutoModel
    return AutoTokenizer.from_pretrained(folder), family.from_pretrained(folder).eval()


@cache
def reference(prompt: Prompt) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """`generate` alone: its ids, and the gap between the two best logits at each."""
    tokenizer, model = plain("tiny-chat")
    messages = [{"role": "user", "content": prompt.text}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        made = model.generate(
            **ids, max_new_tokens=prompt.count, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
    best = [score.topk(2).values[0] for score in made.scores]
    width = ids["input_ids"].shape[1]
    return tuple(made.sequences[0, width:].tolist()), tuple(float(pair[0] - pair[1]) for pair in best)


async def greedy_ids(seam: AsyncSeam, prompt: Prompt) -> tuple[int, ...]:
    ids: list[int] = []
    async with seam.chat(prompt.text, max_output_tokens=prompt.count, token_ids=True, timeout=120) as stream:
        async for event in stream.events():
            match event:
                case Text(token_ids=some):
                    ids.extend(some)
                case Started(notice=notice):
                    assert "untrained" in notice
    return tuple(ids)


async def test_greedy_chat_tokens_equal_generate_alone(system: SeamUp) -> None:
    prompts = mixed_prompts()
    async with AsyncSeam(system.ready["grpc"], api_key=system.ready["api_key"]) as seam:
        answers = await asyncio.gather(*(greedy_ids(seam, prompt) for prompt in prompts))
    ties = 0
    for prompt, got in zip(prompts, answers, strict=True):
        wanted, gaps = reference(prompt)
        if got == wanted:
            continue
        first = next(i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b)
        assert gaps[first] < NEAR_TIE, f"{prompt.text[:60]!r} differs at {first} where the gap is {gaps[first]}"
        ties += 1
    print(f"{ties} of {len(prompts)} answers differ at a near tie")
    assert ties <= ALLOWED_NEAR_TIES


def embedded_alone(text: str) -> npt.NDArray[np.float32]:
    tokenizer, model = plain("minilm")
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
    with torch.inference_mode():
        hidden = model(**inputs).last_hidden_state[0]
    pooled = hidden.mean(0).numpy()
    return np.asarray(pooled / np.linalg.norm(pooled), np.float32)


async def test_embeddings_equal_the_plain_model_whatever_their_batch(system: SeamUp) -> None:
    texts = [prompt.text for prompt in mixed_prompts() if len(prompt.text.split()) < 120] + list(SENTENCES)
    batches = [texts[:20], texts[20:21], texts[21:]]
    async with AsyncSeam(system.ready["grpc"], api_key=system.ready["api_key"]) as seam:
        results = await asyncio.gather(*(seam.embed(batch, truncate=True) for batch in batches))
    vectors: Sequence[Any] = [one.values for result in results for one in result.embeddings]
    for text, vector in zip(texts, vectors, strict=True):
        assert float(np.dot(embedded_alone(text), np.asarray(vector, np.float32))) > 0.99999, text[:60]
