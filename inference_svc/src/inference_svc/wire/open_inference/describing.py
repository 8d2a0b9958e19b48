"""Models as this protocol describes them."""

import json
from collections.abc import Mapping, Sequence

from inference import model_config_pb2 as config_pb
from inference import open_inference_pb2 as pb

from inference_svc.catalogue import CatalogueEntry
from inference_svc.requests import ModelInfo, ModelState, Task
from inference_svc.wire.open_inference.answering import VERSION
from inference_svc.wire.open_inference.asking import DEFAULT_PRIORITY, PRIORITIES
from inference_svc.wire.open_inference.signature import BOOL, BYTES, FP32, UINT32, TensorSpec, signature_of

PLATFORM = "seam_transformers"
BACKEND = "seam"
EXTENSIONS = ("model_configuration", "model_repository", "schedule_policy", "parameters")
READY_STATES = frozenset({ModelState.READY, ModelState.SLEEPING, ModelState.WAKING})  # requests are taken
_TYPES: Mapping[str, config_pb.DataType.ValueType] = {
    BYTES: config_pb.TYPE_STRING,
    BOOL: config_pb.TYPE_BOOL,
    UINT32: config_pb.TYPE_UINT32,
    FP32: config_pb.TYPE_FP32,
}
_STATES: Mapping[ModelState, tuple[str, str]] = {
    ModelState.READY: ("READY", ""),
    ModelState.SLEEPING: ("READY", "it sleeps; the first request wakes it"),
    ModelState.WAKING: ("READY", "it wakes; requests wait for it"),
    ModelState.LOADING: ("LOADING", ""),
    ModelState.UNLOADING: ("UNLOADING", ""),
    ModelState.FAILED: ("UNAVAILABLE", ""),
}


def write_metadata(info: ModelInfo) -> pb.ModelMetadataResponse:
    signature = signature_of(info)
    return pb.ModelMetadataResponse(
        name=info.name,
        versions=[VERSION],
        platform=PLATFORM,
        inputs=map(_tensor, signature.inputs),
        outputs=map(_tensor, signature.outputs),
    )


def write_config(info: ModelInfo) -> config_pb.ModelConfig:
    signature = signature_of(info)
    config = config_pb.ModelConfig(
        name=info.name,
        platform=PLATFORM,
        backend=BACKEND,
        input=[
            config_pb.ModelInput(
                name=spec.name, data_type=_TYPES[spec.datatype], dims=spec.shape, optional=spec.optional
            )
            for spec in signature.inputs
        ],
        output=[
            config_pb.ModelOutput(name=spec.name, data_type=_TYPES[spec.datatype], dims=spec.shape)
            for spec in signature.outputs
        ],
        dynamic_batching=config_pb.ModelDynamicBatching(
            priority_levels=len(PRIORITIES), default_priority_level=DEFAULT_PRIORITY
        ),
        model_transaction_policy=config_pb.ModelTransactionPolicy(decoupled=info.task is Task.GENERATE),
    )
    for name, value in _facts(info, signature.max_texts).items():
        config.parameters[name].string_value = value
    return config


def write_index(entries: Sequence[CatalogueEntry], *, only_ready: bool) -> pb.RepositoryIndexResponse:
    return pb.RepositoryIndexResponse(
        models=[_indexed(entry) for entry in entries if not only_ready or entry.state in READY_STATES]
    )


def _indexed(entry: CatalogueEntry) -> pb.RepositoryIndexResponse.ModelIndex:
    state, reason = _STATES[entry.state]
    return pb.RepositoryIndexResponse.ModelIndex(
        name=entry.info.name, version=VERSION, state=state, reason=reason or entry.info.notice
    )


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _facts(info: ModelInfo, max_texts: int) -> dict[str, str]:
    facts = {
        "task": info.task.value,
        "source": info.source,
        "architecture": info.architecture,
        "device": info.device,
        "dtype": info.dtype,
        "max_texts": str(max_texts),
        "max_text_bytes": str(info.limits.max_text_bytes),
        "max_context_tokens": str(info.limits.max_context_tokens),
        "notice": info.notice,
    }
    if info.task is Task.GENERATE:
        facts["max_output_tokens"] = str(info.limits.max_output_tokens)
    if info.task is Task.SCORE:
        facts["labels"] = json.dumps(info.labels)
        facts["activation"] = info.score_activation.value
    return {name: value for name, value in facts.items() if value}
