"""From a model of the settings to a model that can be served."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from inference_svc.errors import ModelLoadError
from inference_svc.model import LoadedModel, ModelSpec, PrefixSharing
from inference_svc.models.checkpoint import page_in, quiet, read_config, read_model, read_tokenizer
from inference_svc.models.defaults import SCHEME, default_notice
from inference_svc.models.encoder_runner import checked_encoder_runner, first_position, takes_type_ids
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.model_files import model_folder
from inference_svc.models.model_limits import labels, position_limit, score_activation, tokenizer_limit
from inference_svc.models.paged_steps import PagedSettings
from inference_svc.models.placement import (
    Placement,
    cache_shape,
    encoder_step_tokens,
    generation_step_tokens,
    paged_shape,
    placement_of,
    prepare,
)
from inference_svc.models.prefix_store import PrefixSettings
from inference_svc.models.readout import logits_readout, vector_readout
from inference_svc.models.sentence_transformers_files import read_sentence_files
from inference_svc.models.token_bytes import UnreadableTokens
from inference_svc.models.tokenizer import FastTokenizer
from inference_svc.progress import LoadStage, Reached
from inference_svc.requests import Grammars, ModelInfo, ModelLimits, ScoreActivation, Task

_MAX_TEXTS = 256
_MAX_TEXT_BYTES = 1 << 20


def load_model(
    spec: ModelSpec,
    *,
    cache_folder: Path,
    progress: Callable[[str], None],
    reached: Reached = lambda stage, byte_count=None, total_byte_count=None: None,
) -> LoadedModel:
    """Reads, checks and places a model; takes seconds to minutes, and tells `progress` in lines for people, `reached`
    as inference_svc.progress has it.

    Models made by seed go to `cache_folder`; what a hub sends goes to the hub's own cache.
    Raises ModelLoadError with the model's name, its source and what to do.
    """

    def tell(line: str) -> None:
        progress(f"{spec.name}: {line}")

    began = time.monotonic()
    try:
        reached(LoadStage.FINDING)
        folder = model_folder(spec.source, cache_folder, tell)
        tell(f"reading {folder}")
        page_in(folder, partial(reached, LoadStage.READING))
        reached(LoadStage.PREPARING)
        loaded = _load_generation(spec, folder, tell) if spec.task is Task.GENERATE else _load_encoder(spec, folder)
    except ModelLoadError as failed:
        raise ModelLoadError(f"model {spec.name} ({spec.source}) cannot be served: {failed}") from failed
    info = loaded.info
    tell(f"{info.architecture}, {info.dtype} on {info.device}, ready in {time.monotonic() - began:.1f} s")
    if info.notice:
        tell(info.notice)
    return loaded


def _load_generation(spec: ModelSpec, folder: Path, tell: Callable[[str], None]) -> LoadedModel:
    config = read_config(folder)
    placement = placement_of(spec, config)
    prepare(placement.device)
    wrapper = read_tokenizer(folder)
    model = read_model(folder, spec.task, config, placement)
    tokenizer = FastTokenizer(wrapper, end_token_ids=_end_token_ids(model, wrapper), has_type_ids=False, prompts={})
    with quiet():
        runner = _generation_runner(spec, config, placement, model)
    tell(f"how it is computed: {runner.way}")
    limits = ModelLimits(runner.max_context_tokens, runner.max_context_tokens, 1, _MAX_TEXT_BYTES)
    info = _info(spec, config, model, placement, limits)
    grammars = _grammars(tokenizer, info.vocabulary_size, tell)
    if grammars is None:
        info = replace(info, unavailable_features=("work.format",))
    return LoadedModel(info, tokenizer, runner, generation_step_tokens(spec, placement), grammars)


def _generation_runner(
    spec: ModelSpec, config: PreTrainedConfig, placement: Placement, model: PreTrainedModel
) -> PackedGenerationRunner:
    """On a CPU each slot has a stretch of cache to itself, which attention reads as views; on a GPU all share blocks,
    which it reads in place."""
    limit = position_limit(config)
    shares_answers = spec.prefix_cache is PrefixSharing.ALL
    if placement.device.type != "cpu":
        paged = paged_shape(spec, placement, limit)
        return PackedGenerationRunner(
            model,
            slot_count=paged.slot_count,
            max_context_tokens=paged.max_context_tokens,
            device=placement.device,
            dtype=placement.dtype,
            paged=PagedSettings(
                cache_tokens=paged.cache_tokens,
                memory_share=spec.cache_memory_share,
                step_tokens=generation_step_tokens(spec, placement),
                least_tokens=paged.least_tokens,
                shares=spec.prefix_cache is not PrefixSharing.OFF,
                shares_answers=shares_answers,
            ),
        )
    shape = cache_shape(spec, config, placement, limit)
    return PackedGenerationRunner(
        model,
        slot_count=shape.slot_count,
        max_context_tokens=shape.max_context_tokens,
        device=placement.device,
        dtype=placement.dtype,
        prefix=PrefixSettings(shape.prefix_tokens, shares_answers=shares_answers),
    )


def _grammars(tokenizer: FastTokenizer, vocabulary_size: int, tell: Callable[[str], None]) -> Grammars | None:
    try:
        from inference_svc.models.grammar import Grammars as Compiler

        return Compiler(tokenizer.token_bytes(vocabulary_size))
    except (ImportError, UnreadableTokens, ValueError) as why:
        tell(f"no formats: {why}")
        return None


def _load_encoder(spec: ModelSpec, folder: Path) -> LoadedModel:
    config = read_config(folder)
    placement = placement_of(spec, config)
    prepare(placement.device)
    sentence = read_sentence_files(folder)
    wrapper = read_tokenizer(folder)
    model = read_model(folder, spec.task, config, placement)
    most = min(
        position_limit(config, first_position(model)),
        tokenizer_limit(wrapper),
        sentence.max_input_tokens or tokenizer_limit(wrapper),
        spec.max_context_tokens or tokenizer_limit(wrapper),
    )
    has_type_ids = takes_type_ids(model) and "token_type_ids" in wrapper.model_input_names
    tokenizer = FastTokenizer(wrapper, end_token_ids=frozenset(), has_type_ids=has_type_ids, prompts=sentence.prompts)
    embeds = spec.task is Task.EMBED
    readout = vector_readout(model, sentence) if embeds else logits_readout(model)
    with quiet():
        runner, width = checked_encoder_runner(model, readout, max_tokens=most)
    info = _info(
        spec,
        config,
        model,
        placement,
        ModelLimits(most, 0, _MAX_TEXTS, _MAX_TEXT_BYTES),
        dimension_count=width if embeds else 0,
        labels=() if embeds else labels(config),
        score_activation=ScoreActivation.NONE if embeds else score_activation(config),
    )
    return LoadedModel(info, tokenizer, runner, encoder_step_tokens(spec, placement, most))


def _info(
    spec: ModelSpec,
    config: PreTrainedConfig,
    model: PreTrainedModel,
    placement: Placement,
    limits: ModelLimits,
    **of_task: Any,
) -> ModelInfo:
    embedded = spec.source.removeprefix(SCHEME) if spec.source.startswith(SCHEME) else ""
    return ModelInfo(
        name=spec.name,
        task=spec.task,
        source=spec.source,
        architecture=type(model).__name__,
        limits=limits,
        device=str(placement.device),
        dtype=placement.dtype_name,
        vocabulary_size=int(config.get_text_config().vocab_size),
        notice=default_notice(embedded),
        **of_task,
    )


def _end_token_ids(model: PreTrainedModel, wrapper: Any) -> frozenset[int]:
    """The generation settings come first: chat models name the end of a turn there."""
    stated = getattr(model.generation_config, "eos_token_id", None)
    if stated is None:
        stated = wrapper.eos_token_id
    if stated is None:
        return frozenset()
    return frozenset(int(token) for token in (stated if isinstance(stated, (list, tuple)) else [stated]))
