"""Where a model's files are: a default, a local folder, or a hub's, fetched into the usual cache."""

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from inference_svc.errors import ModelLoadError
from inference_svc.models.defaults import SCHEME, default_folder

_WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
_LEFT_OUT = ["onnx/*", "openvino/*", "original/*", "flax/*", "coreml/*"]


def model_folder(source: str, cache_folder: Path, progress: Callable[[str], None]) -> Path:
    """The local folder of `source` (see ModelSpec). Raises ModelLoadError saying what to do."""
    if source.startswith(SCHEME):
        return default_folder(source.removeprefix(SCHEME), cache_folder, progress)
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelLoadError(f"the folder {path} has no config.json; name the folder of a transformers model")
        return path
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ModelLoadError(f"there is no folder {path}")
    return _fetched(source, progress)


def _fetched(source: str, progress: Callable[[str], None]) -> Path:
    progress(f"fetching {source} from the hub, or from its cache")
    try:
        return Path(snapshot_download(source, allow_patterns=_WANTED, ignore_patterns=_LEFT_OUT))
    except GatedRepoError as closed:
        raise ModelLoadError("the hub wants its terms accepted and a token (HF_TOKEN) for it") from closed
    except RepositoryNotFoundError as unknown:
        raise ModelLoadError("the hub has no such model, or it is private and wants a token (HF_TOKEN)") from unknown
    except HFValidationError as wrong:
        raise ModelLoadError(f"it is neither a folder here nor a hub name (owner/name): {wrong}") from wrong
    except (HfHubHTTPError, OSError) as failed:
        raise ModelLoadError(
            f"no hub can be reached ({type(failed).__name__}) and its cache does not hold the model; name a local "
            f"folder, or an embedded default such as {SCHEME}minilm"
        ) from failed
