"""What a model's files say about how much it takes and what its outputs mean."""

from typing import Any

from transformers import PreTrainedConfig

from inference_svc.requests import ScoreActivation

_UNSTATED = 1_000_000  # tokenizers say "very large" where nobody set a limit
_FALLBACK = 2048


def position_limit(config: PreTrainedConfig, first_position: int = 0) -> int:
    """Tokens that the model has positions for; RoBERTa and its family lose those before `first_position`."""
    stated = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(stated) - first_position if stated else _FALLBACK


def tokenizer_limit(wrapper: Any) -> int:
    stated = getattr(wrapper, "model_max_length", None)
    return int(stated) if stated and 0 < stated < _UNSTATED else _UNSTATED


def labels(config: PreTrainedConfig) -> tuple[str, ...]:
    return tuple(str(config.id2label[index]) for index in sorted(config.id2label))


def score_activation(config: PreTrainedConfig) -> ScoreActivation:
    """What the contract calls the model's own: a cross-encoder's stated function, or by the kind of problem."""
    stated = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
    stated = stated or getattr(config, "sbert_ce_default_activation_function", None)
    match str(stated or "").rsplit(".", 1)[-1]:
        case "Identity":
            return ScoreActivation.NONE
        case "Sigmoid":
            return ScoreActivation.SIGMOID
        case "Softmax":
            return ScoreActivation.SOFTMAX
    match getattr(config, "problem_type", None):
        case "regression":
            return ScoreActivation.NONE
        case "multi_label_classification":
            return ScoreActivation.SIGMOID
    return ScoreActivation.SIGMOID if config.num_labels == 1 else ScoreActivation.SOFTMAX
