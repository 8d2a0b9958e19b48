"""The times that `load.gpu` measures, part by part. Each gives rows of a table: medians, references of the same run."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from inference_svc.engine.runner import Row
from inference_svc.models.cuda_graphs import CudaRecorder
from inference_svc.models.decode_graphs import CallAgain, CannotRecord, Recorder, Repeat
from inference_svc.models.encoder_runner import PackedEncoderRunner
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.paged_steps import PagedSettings
from inference_svc.models.readout import vector_readout
from inference_svc.models.sentence_transformers_files import SentenceFiles
from inference_svc.models.varlen_attention import VarlenAttention
from inference_svc.requests import EncodedInput, Sampling
from support.driving import generation
from support.generation_models import ARCHITECTURES
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, LlamaConfig, PreTrainedModel

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    hidden: int = 1536
    intermediate: int = 4096
    layers: int = 24
    heads: int = 24
    key_heads: int = 8
    vocabulary: int = 32_000
    batches: tuple[int, ...] = (1, 8, 64, 256)
    gap_batch: int = 64
    prompt: int = 128
    steps: int = 40
    prefill: int = 4096
    matrix: int = 8192
    copied_bytes: int = 1 << 31
    architectures: tuple[str, ...] = tuple(ARCHITECTURES)
    encoder_hidden: int = 768
    encoder_layers: int = 12
    encoder_tokens: int = 16_384


_TINY_ARCHITECTURES = ("llama", "mistral_windowed", "gpt_oss_sinks")
TINY = Scale(64, 96, 2, 4, 2, 512, (1, 4), 4, 24, 3, 128, 256, 1 << 24, _TINY_ARCHITECTURES, 96, 2, 1024)


class NoRecorder:
    """Every step is led by the host."""

    def record(self, compute: Repeat) -> Repeat:
        raise CannotRecord("graphs are off in this part")


class Counted:
    """The device's own recorder, and how many sizes it has recorded."""

    def __init__(self, device: torch.device) -> None:
        self.sizes = 0
        self._recorder: Recorder = CudaRecorder(device) if device.type == "cuda" else CallAgain()

    def record(self, compute: Repeat) -> Repeat:
        before, self.sizes = self.sizes, 0  # where one size is refused, none is used
        repeat = self._recorder.record(compute)
        self.sizes = before + 1
        return repeat


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(device: torch.device, work: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times + 2):
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def bandwidth(device: torch.device, scale: Scale) -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.ones(scale.copied_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * scale.copied_bytes / median_seconds(device, lambda: target.copy_(source), 10)


def matrix_rate(device: torch.device, dtype: torch.dtype, scale: Scale) -> float:
    """Floating-point operations a second of one large matrix product."""
    left = torch.randn(scale.matrix, scale.matrix, device=device, dtype=dtype)
    right = torch.randn_like(left)
    return 2 * scale.matrix**3 / median_seconds(device, lambda: left @ right, 10)


def made_llama(device: torch.device, dtype: torch.dtype, scale: Scale) -> PreTrainedModel:
    """About 0.7 B parameters at full scale, by seed."""
    torch.manual_seed(1234)
    config = LlamaConfig(
        vocab_size=scale.vocabulary,
        hidden_size=scale.hidden,
        intermediate_size=scale.intermediate,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        num_key_value_heads=scale.key_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def serving(
    model: PreTrainedModel, device: torch.device, dtype: torch.dtype, scale: Scale, recorder: Recorder
) -> PackedGenerationRunner:
    slots = max(*scale.batches, scale.gap_batch)
    context = -(-max(scale.prefill, scale.prompt + 4 * scale.steps + 64) // 256) * 256
    tokens = max(slots * -(-(scale.prompt + 2 * scale.steps + 16) // 256) * 256, 2 * context)
    runner = PackedGenerationRunner(
        model,
        slot_count=slots,
        max_context_tokens=context,
        device=device,
        dtype=dtype,
        prepack=False,
        paged=PagedSettings(tokens, shares=False, recorder=recorder),
    )
    list(runner.warm_up())
    return runner


def recorder_as_served(device: torch.device, dtype: torch.dtype) -> Counted | NoRecorder:
    """A GPU's steps are recorded where attention reads its blocks in place. On other devices they are repeated by
    calling, for the way's sake."""
    if device.type == "cuda" and VarlenAttention.where_right(dtype, device) is None:
        return NoRecorder()
    return Counted(device)


@contextmanager
def decoding(
    runner: PackedGenerationRunner, count: int, scale: Scale, *, drawn: bool = False
) -> Iterator[Callable[[], None]]:
    """`count` sequences behind their prompts; each call is one more step of all of them. Where any are `drawn`, it is
    every other one, at a low temperature: the logits of a model made by seed are flat, those of a trained one are not.
    """
    lengths = [scale.prompt] * count
    last = [5] * count
    for slot in range(count):
        sampling = Sampling(temperature=0.1, top_p=0.9, seed=slot) if drawn and slot % 2 else Sampling(temperature=0.0)
        runner.open(slot, generation([7 + slot % 50] * scale.prompt, 10_000, sampling=sampling))
    for first in range(0, count, 16):
        part = range(first, min(first + 16, count))
        told = runner.step([Row(slot, 0, [7 + slot % 50] * scale.prompt, True, 0) for slot in part])
        for slot, token in zip(part, told, strict=True):
            last[slot] = 5 if token is None else token.token_id

    def step() -> None:
        rows = [Row(slot, lengths[slot], [last[slot]], True, lengths[slot] - scale.prompt + 1) for slot in range(count)]
        for slot, token in enumerate(runner.step(rows)):
            lengths[slot] += 1
            last[slot] = 5 if token is None else token.token_id

    try:
        yield step
    finally:
        for slot in range(count):
            runner.close(slot)


def decode_rows(
    runner: PackedGenerationRunner, model: PreTrainedModel, rate: float, scale: Scale, led: str, *, drawn: bool = False
) -> Rows:
    """Step time at each batch size, over the time that reading weights and cache takes at the copy's bandwidth. `led`
    says by whom steps are."""
    device = model.device
    weights = sum(parameter.nbytes for parameter in model.parameters()) - model.get_input_embeddings().weight.nbytes
    per_token = runner.cache_byte_count // (runner.cache_token_count + runner.cache_block_tokens)
    rows: Rows = []
    for batch in scale.batches:
        with decoding(runner, batch, scale, drawn=drawn) as step:
            seconds = median_seconds(device, step, scale.steps)
        floor = (weights + batch * (scale.prompt + scale.steps // 2) * per_token) / rate
        rows.append(
            {
                "part": f"decode, {led}",
                "what": f"batch {batch}{', half drawn' if drawn else ''}",
                "milliseconds": seconds * 1e3,
                "floor_milliseconds": floor * 1e3,
                "times_the_floor": seconds / floor,
                "tokens_per_second": batch / seconds,
            }
        )
    return rows


def prefill_row(runner: PackedGenerationRunner, model: PreTrainedModel, rate: float, scale: Scale) -> Rows:
    """One prompt in one step, over the rate of a large matrix product."""
    prompt = [7] * scale.prefill
    parameters = sum(parameter.numel() for parameter in model.parameters())
    parameters -= model.get_input_embeddings().weight.numel() + model.get_output_embeddings().weight.numel()
    attention = 2 * scale.layers * scale.hidden * scale.prefill  # of a token that sees half of the prompt
    operations = scale.prefill * (2 * parameters + attention)

    def compute() -> None:
        runner.open(0, generation(prompt, 2))
        try:
            runner.step([Row(0, 0, prompt, True, 0)])
        finally:
            runner.close(0)

    seconds = median_seconds(model.device, compute, 8)
    return [
        {
            "part": "prefill",
            "what": f"{scale.prefill} tokens in a step",
            "milliseconds": seconds * 1e3,
            "tokens_per_second": scale.prefill / seconds,
            "share_of_matrix_rate": operations / seconds / rate,
        }
    ]


class ByGroup:
    """A WholeRow that leaves every row to attention group by group."""

    def takes(self, query: torch.Tensor, value: torch.Tensor) -> bool:
        return False

    def attend(self, *arguments: Any, **named: Any) -> torch.Tensor:
        raise AssertionError("it takes nothing")


def encode_rows(device: torch.device, dtype: torch.dtype, rate: float, scale: Scale) -> Rows:
    """A pass of mixed texts through a BERT of base size made by seed, over the rate of a large matrix product: with
    attention as it is chosen here, and group by group."""
    torch.manual_seed(1234)
    heads = scale.encoder_hidden // 64 or 1
    config = BertConfig(
        vocab_size=scale.vocabulary,
        hidden_size=scale.encoder_hidden,
        num_hidden_layers=scale.encoder_layers,
        num_attention_heads=heads,
        intermediate_size=4 * scale.encoder_hidden,
    )
    with device:
        model = AutoModel.from_config(config, dtype=dtype).eval()
    lengths = _mixed_lengths(scale.encoder_tokens)
    inputs = [EncodedInput(at, (7 + at % 50,) * length, None) for at, length in enumerate(lengths)]
    layers = sum(parameter.numel() for parameter in model.encoder.parameters())
    attention = 4 * scale.encoder_layers * scale.encoder_hidden
    operations = sum(2 * layers * length + attention * length * length for length in lengths)
    told: Rows = []
    for what, whole_row in (("as chosen here", None), ("by group", ByGroup())):
        runner = PackedEncoderRunner(model, vector_readout(model, SentenceFiles()), prepack=False, whole_row=whole_row)
        seconds = median_seconds(device, partial(runner.encode, inputs), 8)
        row: dict[str, Any] = {"part": "encode", "what": f"{len(lengths)} texts, {sum(lengths):,} tokens, {what}"}
        row |= {"milliseconds": seconds * 1e3, "tokens_per_second": sum(lengths) / seconds}
        told.append(row | {"share_of_matrix_rate": operations / seconds / rate})
    return told


def _mixed_lengths(tokens: int) -> list[int]:
    """Up to 512 each, most of them short."""
    chance, lengths = random.Random(3), [1]
    while sum(lengths) < tokens:
        lengths.append(min(512, int(chance.lognormvariate(4.2, 0.9)) + 3, tokens - sum(lengths)))
    return lengths


def host_gap_row(runner: PackedGenerationRunner, device: torch.device, scale: Scale) -> Rows:
    """What of a step the device computes nothing: kernels' time by the profiler, the step's without it."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with decoding(runner, scale.gap_batch, scale) as step:
        wall = median_seconds(device, step, scale.steps)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            for _ in range(scale.steps):
                step()
            wait_for(device)
    on_device = [each for each in seen.key_averages() if each.device_type != DeviceType.CPU]  # the host's ops repeat it
    busy = sum(each.self_device_time_total for each in on_device if not each.is_user_annotation) / 1e6 / scale.steps
    return [
        {
            "part": "host gap",
            "what": f"batch {scale.gap_batch}",
            "milliseconds": wall * 1e3,
            "device_milliseconds": busy * 1e3,
            "gap_share": 1 - busy / wall,
        }
    ]
