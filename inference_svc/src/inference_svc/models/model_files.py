"""Where a model's files are: a default, a local folder, or a hub's, fetched into the usual cache."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils.tqdm import tqdm

from inference_svc.errors import ModelLoadError
from inference_svc.models.defaults import SCHEME, default_folder

_WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
_TELL_EVERY = 2.0  # seconds
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
        return Path(
            snapshot_download(
                source, allow_patterns=_WANTED, ignore_patterns=_LEFT_OUT, tqdm_class=_telling_bar(progress)
            )
        )
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


def _telling_bar(progress: Callable[[str], None]) -> type[tqdm]:
    """A bar that speaks to `progress` now and then instead of drawing on the terminal."""
    told = [-_TELL_EVERY]

    class TellingBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO(), "ncols": 70, "ascii": True})  # type: ignore[no-untyped-call]

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            now = time.monotonic()
            if self.n and now - told[0] >= _TELL_EVERY:
                told[0] = now
                progress(str(self).strip())

    return TellingBar
