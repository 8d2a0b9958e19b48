"""The models that benchmarks are measured on, made by seed: a folder each, in the cache of this user.

`small` is a Llama of 54.5M parameters, the size at which a CPU step is bound by the weights as a GPU step is.
Its tokens are arbitrary, its speed is not.
"""

import random
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CACHE = Path.home() / ".cache" / "seam" / "bench"
VOCABULARY = 8192


@dataclass(frozen=True)
class Workload:
    """One request: prompt ids, and how many tokens to generate (the end token ignored)."""

    prompt: tuple[int, ...]
    output_count: int


def generation_model(folder: Path = CACHE) -> Path:
    """The path of the 54.5M Llama, made if need be (about five seconds)."""
    target = folder / "small-llama-2"
    if target.exists():
        return target
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

    torch.manual_seed(1234)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=3328,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.06,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=1, pad_token_id=0, do_sample=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_trained_tokenizer(), pad_token="<pad>", eos_token="<end>")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        model.save_pretrained(Path(scratch, "model"))
        tokenizer.save_pretrained(Path(scratch, "model"))
        Path(scratch, "model").rename(target)
    return target


def _trained_tokenizer() -> "Tokenizer":
    """Byte-level BPE of the whole vocabulary, trained on this Python's own library: any text will do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:150]], trainer)
    return tokenizer


def generation_workload(count: int = 64, seed: int = 0) -> list[Workload]:
    """Mixed lengths: prompts of 8 to 256 tokens, outputs of 16 to 256, both uniform."""
    draw = random.Random(seed)
    requests = []
    for _ in range(count):
        prompt_length, output_count = draw.randint(8, 256), draw.randint(16, 256)
        requests.append(Workload(tuple(draw.randrange(16, VOCABULARY) for _ in range(prompt_length)), output_count))
    return requests


WORDS = ("the", "a", "model", "answer", "question", "stream", "batch", "token", "river", "mountain", "payment", "cloud")


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts of log-normal length as people's queries and passages are: median 24 words, cut at 220."""
    draw = random.Random(seed)
    return [
        " ".join(draw.choice(WORDS) for _ in range(max(2, min(220, int(draw.lognormvariate(3.18, 0.9))))))
        for _ in range(count)
    ]
