"""A model is served packed only if its packed answers are its own.

Before anything is replaced, the model computes two short sequences the plain way; afterwards the packed runner computes
them in chunks, mixed, token by token and resumed, and must give the same logits. What two short sequences cannot show
(windows, positions that change with length) is read from the configuration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from inference_svc.engine.runner import Row
from inference_svc.errors import ModelLoadError

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}
_LARGEST_DIFFERENCE = {torch.float32: 1e-3, torch.float16: 3e-2}
_LARGEST_DIFFERENCE_OTHERWISE = 1e-1
_LENGTHS = (24, 17)


class Computes(Protocol):
    def __call__(self, rows: Sequence[Row], prompt_lengths: Mapping[int, int]) -> torch.Tensor:
        """Logits `(rows, vocabulary)` of each row's last token."""
        ...


@dataclass(frozen=True, slots=True)
class PlainLogits:
    """What the model says by itself: of each sequence its tokens, and logits `(tokens, vocabulary)`."""

    token_ids: tuple[list[int], ...]
    logits: tuple[torch.Tensor, ...]


def refuse_what_cannot_be_packed(model: PreTrainedModel, max_context_tokens: int) -> None:
    """Raises ModelLoadError for what its configuration tells."""
    config = model.config.get_text_config()
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelLoadError(f"{name} has an encoder and a decoder: only causal language models generate here.")
    unknown = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if unknown:
        raise ModelLoadError(
            f"{name} has layers of kind {', '.join(sorted(unknown))}, which keep more than keys and values."
        )
    if getattr(model, "_is_stateful", False):
        raise ModelLoadError(f"{name} keeps a recurrent state, which packed steps do not carry.")
    longest: int = getattr(config, "max_position_embeddings", None) or max_context_tokens
    if max_context_tokens > longest:
        raise ModelLoadError(f"max_context_tokens {max_context_tokens} is over the {longest} positions of {name}.")
    _refuse_length_dependent_positions(config, name, max_context_tokens)


def _refuse_length_dependent_positions(config: Any, name: str, max_context_tokens: int) -> None:
    """Such position scalings look at the longest sequence of a forward: in a packed one, at somebody else's."""
    rope = getattr(config, "rope_parameters", None) or {}
    for part in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        kind = part.get("rope_type")
        if kind not in _LENGTH_DEPENDENT_ROPE:
            continue
        usual = int(part.get("original_max_position_embeddings") or config.max_position_embeddings)
        if max_context_tokens > usual:
            raise ModelLoadError(
                f"{name} scales its positions ({kind}) by the longest sequence beyond {usual} tokens, which would make "
                f"an answer depend on its neighbours: set max_context_tokens to {usual} or less."
            )


def plain_logits(model: PreTrainedModel, max_context_tokens: int) -> PlainLogits:
    """Ask the model, not yet changed."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(0)
    token_ids, logits = [], []
    for length in _LENGTHS:
        ids = torch.randint(0, vocabulary, (1, min(length, max_context_tokens)), generator=generator)
        answer = model(
            input_ids=ids.to(model.device), attention_mask=torch.ones_like(ids).to(model.device), use_cache=False
        )
        token_ids.append(ids[0].tolist())
        logits.append(answer.logits[0].float())
    return PlainLogits(tuple(token_ids), tuple(logits))


def packed_differences(expected: PlainLogits, compute: Computes) -> list[float]:
    """How far packed logits are from plain ones, in shares of the plain ones' spread; one for each row computed."""
    differences = []
    for rows, prompt_lengths in _steps(expected.token_ids):
        found = compute(rows, prompt_lengths)
        for row, logits in zip(rows, found, strict=True):
            plain = expected.logits[row.slot][row.start + len(row.token_ids) - 1]
            differences.append(float((logits - plain).square().mean().sqrt() / plain.std().clamp(min=1e-9)))
    return differences


def bits_are_kept(expected: PlainLogits, compute: Computes) -> bool:
    """Whether a prompt and a single token have the same logits, to the bit, alone and beside others."""
    texts = {slot: ids for slot, ids in enumerate(expected.token_ids) if len(ids) > 1}
    lengths = {slot: len(ids) - 1 for slot, ids in texts.items()}
    prompts = [Row(slot, 0, ids[:-1], True, 0) for slot, ids in texts.items()]
    singles = [Row(slot, len(ids) - 1, ids[-1:], True, 0) for slot, ids in texts.items()]
    return all(
        torch.equal(compute([row], lengths)[0], logits)
        for rows in (prompts, singles)
        for row, logits in zip(rows, compute(rows, lengths).clone(), strict=True)
    )


def check_differences(differences: Sequence[float], dtype: torch.dtype, name: str) -> None:
    """Raises ModelLoadError if packed steps answer otherwise than the plain model did."""
    ordered = sorted(differences, key=lambda each: float("inf") if each != each else each)
    # In half precision a single expert or a single sum may go another way: there the middle one tells.
    difference = ordered[-1] if dtype == torch.float32 else ordered[len(ordered) // 2]
    allowed = _LARGEST_DIFFERENCE.get(dtype, _LARGEST_DIFFERENCE_OTHERWISE)
    if not difference <= allowed:
        raise ModelLoadError(
            f"{name} answers otherwise in packed steps than alone (logits differ by {difference:.2g} of their spread, "
            f"allowed is {allowed:.2g}): it cannot be served by this engine."
        )


def check_layers(windows_seen: Mapping[int, int | None], model: PreTrainedModel, max_context_tokens: int) -> None:
    """Raises ModelLoadError unless every layer has called our attention, with the window that it is configured to have.

    `windows_seen` is by layer that called.
    """
    config = model.config.get_text_config()
    name = type(model).__name__
    missing = set(range(config.num_hidden_layers)) - set(windows_seen)
    if missing:
        raise ModelLoadError(
            f"{name} does not attend through transformers' attention interface in layers {sorted(missing)}: "
            "its keys and values cannot be kept by this engine."
        )
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        for layer, kind in enumerate(kinds):
            wanted = window if kind == "sliding_attention" else None
            if windows_seen.get(layer) != wanted:
                raise ModelLoadError(f"{name} does not pass on the sliding window {wanted} of its layer {layer}.")
        return
    is_windowed = window and getattr(config, "use_sliding_window", True) and window < max_context_tokens
    if is_windowed and not any(windows_seen.values()):
        raise ModelLoadError(f"{name} does not pass on its sliding window {window}: set max_context_tokens to it.")


def _steps(token_ids: Sequence[list[int]]) -> list[tuple[list[Row], dict[int, int]]]:
    """Chunks of both prompts mixed, then single tokens of both, the last ones of each in one resumed piece."""
    prompt_lengths = {slot: (len(ids) + 1) // 2 for slot, ids in enumerate(token_ids)}
    cuts = []
    for slot, ids in enumerate(token_ids):
        prompt, whole = prompt_lengths[slot], len(ids)
        singly = range(prompt, max(prompt, whole - 3))
        cuts.append(sorted({0, prompt // 3, prompt - 1, prompt, *singly, whole} - {whole + 1}))
    steps = []
    for index in range(max(len(cut) for cut in cuts) - 1):
        rows = [
            Row(slot, cut[index], token_ids[slot][cut[index] : cut[index + 1]], True, 0)
            for slot, cut in enumerate(cuts)
            if index + 1 < len(cut)
        ]
        steps.append((rows, prompt_lengths))
    return steps
