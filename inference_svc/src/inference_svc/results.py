"""From what a runner computed to what was asked for. numpy only: the engine's room uses this."""

import numpy as np
import numpy.typing as npt

from inference_svc.requests import EmbedWork, ModelInfo, ScoreActivation, ScoreWork

Floats = npt.NDArray[np.float32]


def finish_vectors(work: EmbedWork, info: ModelInfo, rows: Floats) -> Floats:
    """Pooled vectors `(inputs, dimension)` to what the request asked for: leading dimensions kept (Matryoshka),
    then, where asked, each of length 1. A zero vector stays zero. Rows that hold NaN keep it."""
    kept = rows[:, : work.dimension_count or info.dimension_count]
    if not work.normalize:
        return kept.astype(np.float32)
    wide = kept.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: Floats = (wide / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit


def finish_scores(work: ScoreWork, info: ModelInfo, logits: Floats) -> Floats:
    """Logits `(inputs, labels)` to scores of the same shape, by the activation asked for or the model's own."""
    activation = info.score_activation if work.activation is ScoreActivation.MODEL else work.activation
    wide = logits.astype(np.float64)
    match activation:
        case ScoreActivation.SIGMOID:
            alone: Floats = (0.5 * (1.0 + np.tanh(0.5 * wide))).astype(np.float32)
            return alone
        case ScoreActivation.SOFTMAX:
            powers = np.exp(wide - wide.max(axis=1, keepdims=True))
            shares: Floats = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
            return shares
        case ScoreActivation.NONE | ScoreActivation.MODEL:
            return logits.astype(np.float32)
