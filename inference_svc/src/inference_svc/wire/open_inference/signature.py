"""Which tensors a model takes and gives, by what it does. Names of generation are those of Triton's vLLM backend."""

from dataclasses import dataclass

from inference_svc.requests import ModelInfo, Task

BYTES, BOOL, UINT32, FP32 = "BYTES", "BOOL", "UINT32", "FP32"
ANY = -1  # a dimension that the request decides


@dataclass(frozen=True, slots=True)
class TensorSpec:
    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """`max_texts`: how many texts one request may bring."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_texts: int


_TEXT = TensorSpec("text", BYTES, (ANY,))
_ABOUT_EACH = (TensorSpec("input_token_count", UINT32, (ANY,)), TensorSpec("truncated", BOOL, (ANY,)))
_GENERATE = Signature(
    inputs=(
        TensorSpec("text_input", BYTES, (1,), optional=True),
        TensorSpec("messages", BYTES, (1,), optional=True),
        TensorSpec("sampling_parameters", BYTES, (1,), optional=True),
        TensorSpec("stream", BOOL, (1,), optional=True),
        TensorSpec("exclude_input_in_output", BOOL, (1,), optional=True),
    ),
    outputs=(
        TensorSpec("text_output", BYTES, (1,)),
        TensorSpec("finish_reason", BYTES, (1,)),
        TensorSpec("num_input_tokens", UINT32, (1,)),
        TensorSpec("num_output_tokens", UINT32, (1,)),
    ),
    max_texts=1,
)


def signature_of(info: ModelInfo) -> Signature:
    """`info` is of a model that was loaded once: before, its sizes are not known."""
    match info.task:
        case Task.GENERATE:
            return _GENERATE
        case Task.EMBED:
            vectors = TensorSpec("embedding", FP32, (ANY, info.dimension_count))
            return Signature((_TEXT,), (vectors, *_ABOUT_EACH), info.limits.max_texts)
        case Task.SCORE:
            label_count = len(info.labels)
            scores = TensorSpec("scores", FP32, (ANY, label_count))
            labels = TensorSpec("labels", BYTES, (label_count,))
            pair = TensorSpec("text_pair", BYTES, (ANY,), optional=True)
            return Signature((_TEXT, pair), (scores, labels, *_ABOUT_EACH), info.limits.max_texts)
