"""Runs an encoder on many inputs laid end to end: no padding is computed."""

import inspect
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from inference_svc.errors import ModelLoadError
from inference_svc.models.device_faults import device_faults_named
from inference_svc.models.fusing import fuse_layers
from inference_svc.models.packed_bidirectional import (
    ATTENTION_NAME,
    PackedLayout,
    WholeRow,
    register_packed_attention,
)
from inference_svc.models.packed_mpnet import PackedMPNet
from inference_svc.models.pooling import Readout
from inference_svc.models.prepacked import own_weights, prepack_linears, takes_any_row_count
from inference_svc.models.row_counts import filler_count
from inference_svc.models.varlen_inputs import VarlenInputs
from inference_svc.requests import EncodedInput


class PackedEncoderRunner:
    """An engine.runner.EncoderRunner. `model` is in eval mode on its device and is this runner's own from here on:
    its attention is replaced and, on a CPU, its linear layers are packed for the kernels."""

    def __init__(
        self, model: PreTrainedModel, readout: Readout, *, prepack: bool = True, whole_row: WholeRow | None = None
    ) -> None:
        """`whole_row` is chosen by the device where it is None."""
        register_packed_attention()
        self._device = model.device  # asked first: packed layers have no parameters to ask
        own_weights(model)
        if prepack and model.device.type == "cpu":
            prepack_linears(model)
            fuse_layers(model)
        self._fills = self._device.type == "cpu" and not takes_any_row_count(model)
        base: nn.Module = model.base_model
        self._readout = readout
        self._whole_row = VarlenInputs.where_right(model.dtype, model.device) if whole_row is None else whole_row
        self._first_position = first_position(model)
        self._has_type_ids = takes_type_ids(model)
        self._options: dict[str, object] = {}
        self._body: Callable[..., object]
        if model.config.model_type == "mpnet":
            self._body = PackedMPNet(base)
        else:
            model.set_attn_implementation(ATTENTION_NAME)
            self._body = base
            if "use_cache" in inspect.signature(base.forward).parameters:
                self._options["use_cache"] = False

    def encode(self, inputs: Sequence[EncodedInput]) -> npt.NDArray[np.float32]:
        """Lays the inputs in order of length, so that equal ones share an attention call, and gives the rows back in
        the order they came."""
        order = sorted(range(len(inputs)), key=lambda place: len(inputs[place].token_ids))
        with device_faults_named(self._device), torch.inference_mode():
            rows = self._pass([inputs[place] for place in order])
            laid = rows.float().cpu().numpy()
        answer = np.empty_like(laid)
        answer[order] = laid
        return answer

    def _pass(self, laid: Sequence[EncodedInput]) -> torch.Tensor:
        layout = PackedLayout.of([len(one.token_ids) for one in laid], self._device, self._whole_row)
        filler = filler_count(layout.token_count) if self._fills else 0
        positions = torch.nn.functional.pad(layout.positions, (0, filler))
        tensors = {
            "input_ids": self._row((token for one in laid for token in one.token_ids), filler),
            "position_ids": (positions + self._first_position)[None],
        }
        if self._has_type_ids:
            kinds = (kind for one in laid for kind in (one.type_ids or (0,) * len(one.token_ids)))
            tensors["token_type_ids"] = self._row(kinds, filler)
        hidden = self._body(**tensors, **self._options, packing=layout).last_hidden_state[0]  # type: ignore[attr-defined]
        return self._readout(hidden, layout)

    def _row(self, values: Iterator[int], filler: int) -> torch.Tensor:
        return torch.tensor([[*values, *[0] * filler]], dtype=torch.int64, device=self._device)


def first_position(model: PreTrainedModel) -> int:
    """RoBERTa and its family count positions from behind the padding id; everyone else from 0."""
    padding = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def takes_type_ids(model: PreTrainedModel) -> bool:
    accepts = "token_type_ids" in inspect.signature(model.base_model.forward).parameters
    return accepts and int(getattr(model.config, "type_vocab_size", 0) or 0) > 1


def checked_encoder_runner(
    model: PreTrainedModel, readout: Readout, *, max_tokens: int
) -> tuple[PackedEncoderRunner, int]:
    """A runner, and how wide its rows are. Its packed pass was compared with plain passes of the same model, one input
    at a time.

    Raises ModelLoadError when they differ: the architecture cannot be packed and would be served wrong.
    """
    samples = _samples(model, max_tokens)
    expected = np.concatenate([_plain(model, readout, sample) for sample in samples])
    try:
        runner = PackedEncoderRunner(model, readout)
        got = runner.encode(samples)
    except (NotImplementedError, TypeError, KeyError, AttributeError) as refused:
        raise ModelLoadError(f"{type(model).__name__} cannot be packed: {refused}") from refused
    away = float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-6))
    bound = 1e-4 if model.dtype == torch.float32 else 1e-1
    if not away < bound:
        raise ModelLoadError(
            f"{type(model).__name__} cannot be packed: beside other inputs its results differ by {away:.1e} of their "
            f"size (at most {bound:.0e} is rounding)"
        )
    return runner, got.shape[1]


def _plain(model: PreTrainedModel, readout: Readout, sample: EncodedInput) -> npt.NDArray[np.float32]:
    """One input through transformers' own forward, no position, mask or packing given."""
    tensors = {"input_ids": torch.tensor([sample.token_ids], device=model.device)}
    if sample.type_ids is not None:
        tensors["token_type_ids"] = torch.tensor([sample.type_ids], device=model.device)
    with torch.inference_mode():
        answer = model(**tensors)
        if hasattr(answer, "logits"):
            return answer.logits.float().cpu().numpy()  # type: ignore[no-any-return]
        layout = PackedLayout.of([len(sample.token_ids)], model.device)
        return readout(answer.last_hidden_state[0], layout).float().cpu().numpy()


def _samples(model: PreTrainedModel, max_tokens: int) -> list[EncodedInput]:
    """Mixed lengths, two of them equal, one past any attention window that the limit allows."""
    config = model.config
    window = int(getattr(config, "local_attention", 0) or getattr(config, "sliding_window", 0) or 0)
    lengths = [min(length, max_tokens) for length in (7, 23, 7, 1, min(window, 512) + 41)]
    padding, size = getattr(config, "pad_token_id", None), int(config.vocab_size)
    special = {padding, 0}
    samples = []
    for index, length in enumerate(lengths):
        wanted = ((index + 3) * 7919 * (place + 1) * (place + 5) % size for place in range(length))
        ids = tuple(token if token not in special else size // 2 for token in wanted)
        type_ids = tuple(int(2 * place >= length) for place in range(length)) if takes_type_ids(model) else None
        samples.append(EncodedInput(index, ids, type_ids))
    return samples
