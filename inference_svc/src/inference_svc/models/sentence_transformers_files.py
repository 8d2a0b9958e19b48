"""What the configuration files of sentence-transformers say about a model: pooling, dense layers, limits, prompts.

Layout of the files: https://sbert.net/docs/package_reference/sentence_transformer/models.html
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference_svc.errors import ModelLoadError
from inference_svc.models.pooling import Pooling

_POOLING_FLAGS = {
    "pooling_mode_cls_token": Pooling.FIRST,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LENGTH,
    "pooling_mode_weightedmean_tokens": Pooling.WEIGHTED_MEAN,
    "pooling_mode_lasttoken": Pooling.LAST,
}


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A linear layer behind the pooling; its weights `linear.weight`, `linear.bias` lie in `weights`."""

    weights: Path
    input_count: int
    output_count: int
    has_bias: bool
    activation: str  # the last word of a torch class: "Tanh", "Identity"


@dataclass(frozen=True, slots=True)
class SentenceFiles:
    """Empty for a folder without such files."""

    pooling: tuple[Pooling, ...] = ()
    dense: tuple[DenseLayer, ...] = ()
    max_input_tokens: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)  # "" is the default prompt


def read_sentence_files(folder: Path) -> SentenceFiles:
    """Raises ModelLoadError for a module that would change the vectors and is not known here."""
    limits = _json(folder / "sentence_bert_config.json")
    pooling: tuple[Pooling, ...] = ()
    dense: list[DenseLayer] = []
    prompts = _prompts(_json(folder / "config_sentence_transformers.json"))
    for module in _json(folder / "modules.json") or []:
        kind = str(module["type"]).rsplit(".", 1)[-1]
        config = _json(folder / module["path"] / "config.json") or {}
        if kind == "Pooling":
            pooling = _pooling(config, prompts)
        elif kind == "Dense":
            dense.append(_dense(folder / module["path"], config))
        elif kind == "Transformer" and module["path"]:
            raise ModelLoadError(f"its modules.json keeps the transformer in {module['path']}; name that folder")
        elif kind not in ("Transformer", "Normalize"):
            raise ModelLoadError(f"its modules.json names a {kind} module, which is not supported")
    limit = (limits or {}).get("max_seq_length")
    return SentenceFiles(pooling, tuple(dense), int(limit) if limit else None, prompts)


def _pooling(config: Mapping[str, Any], prompts: Mapping[str, str]) -> tuple[Pooling, ...]:
    if config.get("include_prompt") is False and any(prompts.values()):
        raise ModelLoadError("its pooling leaves out the prompt's tokens, which is not supported")
    named = config.get("pooling_mode")
    if named is not None:
        names = [named] if isinstance(named, str) else list(named)
        try:
            return tuple(Pooling(name) for name in names)
        except ValueError as unknown:
            raise ModelLoadError(f"its pooling is not supported: {unknown}") from unknown
    unknown_flags = [name for name in config if name.startswith("pooling_mode_") and name not in _POOLING_FLAGS]
    if any(config[name] for name in unknown_flags):
        raise ModelLoadError(f"its pooling is not supported: {', '.join(unknown_flags)}")
    return tuple(kind for name, kind in _POOLING_FLAGS.items() if config.get(name))


def _dense(folder: Path, config: Mapping[str, Any]) -> DenseLayer:
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ModelLoadError(f"its dense layer {folder.name} has no model.safetensors")
    return DenseLayer(
        weights=weights,
        input_count=int(config["in_features"]),
        output_count=int(config["out_features"]),
        has_bias=bool(config.get("bias", True)),
        activation=str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1],
    )


def _prompts(config: Mapping[str, Any] | None) -> dict[str, str]:
    prompts = {str(name): str(text) for name, text in ((config or {}).get("prompts") or {}).items()}
    default = (config or {}).get("default_prompt_name")
    return {**prompts, "": prompts.get(default, "") if default else ""}


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as broken:
        raise ModelLoadError(f"its {path.name} is not JSON: {broken}") from broken
