"""Reads a model's folder with transformers: safetensors only, never code that came with the model."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from inference_svc.errors import ModelLoadError
from inference_svc.models.placement import Placement
from inference_svc.models.readout import is_causal
from inference_svc.requests import Task

_HEADS = {
    Task.GENERATE: AutoModelForCausalLM,
    Task.EMBED: AutoModel,
    Task.SCORE: AutoModelForSequenceClassification,
}
_WANTED = {
    Task.GENERATE: "a causal language model (chat)",
    Task.EMBED: "an encoder (embed)",
    Task.SCORE: "a sequence classifier (score)",
}
_PIECE = 8 << 20  # bytes read between two words of progress
_TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model")  # without them transformers makes an empty one


def read_config(folder: Path) -> PreTrainedConfig:
    with _named("its config.json cannot be used"), quiet():
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def read_tokenizer(folder: Path) -> Any:
    """The wrapper of a fast tokenizer."""
    if not any(next(folder.glob(pattern), None) for pattern in _TOKENIZER_FILES):
        raise ModelLoadError("it has no tokenizer files; put the model's tokenizer.json into its folder")
    with _named("its tokenizer cannot be read"), quiet():
        wrapper = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if getattr(wrapper, "backend_tokenizer", None) is None:
        raise ModelLoadError("it has no fast tokenizer (tokenizer.json); convert it with transformers first")
    return wrapper


def page_in(folder: Path, reached: Callable[[int, int], None]) -> None:
    """Read the weights' files once, in their order, into the system's file cache: what maps them afterwards finds them
    there. `reached` is told the bytes read so far, and of how many."""
    files = sorted(folder.glob("*.safetensors"))
    total, done = sum(file.stat().st_size for file in files), 0
    piece = memoryview(bytearray(_PIECE))
    reached(0, total)
    with _named("its weights cannot be read"):
        for file in files:
            with open(file, "rb", buffering=0) as weights:
                while count := weights.readinto(piece):
                    done += count
                    reached(done, total)


def read_model(folder: Path, task: Task, config: PreTrainedConfig, placement: Placement) -> PreTrainedModel:
    """In eval mode on its device. Raises ModelLoadError where weights are missing for the task's head."""
    if config.is_encoder_decoder:
        raise ModelLoadError(f"{_architecture(config)} is an encoder-decoder; wanted is {_WANTED[task]}")
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError("it has no .safetensors weights; other formats can carry code and are not read")
    with _named("its weights cannot be read"), quiet():
        model, told = _HEADS[task].from_pretrained(
            folder,
            config=config,
            dtype=placement.dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = [name for name in told["missing_keys"] if not (task is Task.EMBED and "pooler." in name)]
    if missing or (task is Task.GENERATE and not is_causal(model)):
        lacks = f"; it lacks {', '.join(sorted(missing)[:3])}" if missing else ""
        raise ModelLoadError(f"{_architecture(config)} is not {_WANTED[task]}{lacks}")
    if task is Task.EMBED and getattr(model, "pooler", None) is not None:
        model.pooler = None  # computes what nobody reads
    ready: PreTrainedModel = model.to(placement.device).eval()
    return ready


def _architecture(config: PreTrainedConfig) -> str:
    return str((config.architectures or [config.model_type])[0])


@contextmanager
def _named(what: str) -> Iterator[None]:
    """transformers tells of bad folders by many exceptions; here they all become one."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, SafetensorError) as failed:
        if "trust_remote_code" in str(failed):
            raise ModelLoadError(
                "it needs code from its own repository, which is never run here; name a model that transformers "
                "itself knows"
            ) from failed
        raise ModelLoadError(f"{what}: {str(failed).strip() or type(failed).__name__}") from failed


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no warnings of transformers meanwhile: progress is told by the caller, faults are raised."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
