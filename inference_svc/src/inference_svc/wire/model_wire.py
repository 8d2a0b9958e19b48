"""What an operator asks of ModelService, to the words inside and back; beside inference_wire, which has the models."""

import math
import re
from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration
from seam.inference.v1 import model_service_pb2 as model_pb

from inference_svc.errors import InvalidField, TextEmpty
from inference_svc.model import ModelSpec
from inference_svc.progress import LoadProgress, LoadStage
from inference_svc.requests import Task

MAX_GRACE_SECONDS = 3600
MAX_SOURCE_CHARACTERS = 4096
DTYPES = ("auto", "float32", "bfloat16", "float16")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")
_TASKS: Mapping[int, Task] = {
    model_pb.TASK_GENERATE: Task.GENERATE,
    model_pb.TASK_EMBED: Task.EMBED,
    model_pb.TASK_SCORE: Task.SCORE,
}
_STAGES: Mapping[LoadStage, model_pb.LoadStage.ValueType] = {
    LoadStage.QUEUED: model_pb.LOAD_STAGE_QUEUED,
    LoadStage.FINDING: model_pb.LOAD_STAGE_FINDING,
    LoadStage.READING: model_pb.LOAD_STAGE_READING,
    LoadStage.PREPARING: model_pb.LOAD_STAGE_PREPARING,
    LoadStage.WARMING: model_pb.LOAD_STAGE_WARMING,
}
_LEAST = {"max_context_tokens": 2, "cache_token_count": 1, "slot_count": 1, "step_token_budget": 1}
_GENERATION_ONLY = ("cache_token_count", "slot_count")


def read_model_spec(spec: model_pb.ModelSpec) -> ModelSpec:
    """Raises InvalidField, TextEmpty."""
    if not _NAME.fullmatch(spec.name):
        raise InvalidField.of_field("spec.name", "1 to 64 letters, digits, or any of . _ -")
    task = _TASKS.get(spec.task)
    if task is None:
        raise InvalidField.of_field("spec.task", f"{spec.task} is no task of a model")
    source = spec.source.strip()
    if not source:
        raise TextEmpty.of_field("spec.source", "a hub name, a folder, or embedded:NAME")
    if len(source) > MAX_SOURCE_CHARACTERS or not source.isprintable():
        raise InvalidField.of_field("spec.source", f"at most {MAX_SOURCE_CHARACTERS} characters, all printable")
    device, dtype = spec.device or "cpu", spec.dtype or "auto"
    if not _DEVICE.fullmatch(device):
        raise InvalidField.of_field("spec.device", f"must be cpu, cuda or cuda:1, was {device[:100]!r}")
    if dtype not in DTYPES:
        raise InvalidField.of_field("spec.dtype", f"must be one of {', '.join(DTYPES)}, was {dtype[:100]!r}")
    return ModelSpec(
        name=spec.name,
        task=task,
        source=source,
        device=device,
        dtype=dtype,
        max_context_tokens=_count(spec, "max_context_tokens", task),
        cache_token_count=_count(spec, "cache_token_count", task),
        slot_count=_count(spec, "slot_count", task),
        step_token_budget=_count(spec, "step_token_budget", task),
        idle_sleep_seconds=_idle_sleep(spec),
    )


def read_grace(request: model_pb.UnloadModelRequest) -> float:
    """Seconds. Raises InvalidField."""
    seconds = _seconds(request.grace, "grace") if request.HasField("grace") else 0.0
    if not 0 <= seconds <= MAX_GRACE_SECONDS:
        raise InvalidField.of_field("grace", f"must be 0 to {MAX_GRACE_SECONDS} s, was {seconds:g}")
    return seconds


def write_load_progress(progress: LoadProgress) -> model_pb.LoadModelResponse:
    return model_pb.LoadModelResponse(
        progress=model_pb.LoadProgress(
            stage=_STAGES[progress.stage],
            byte_count=progress.byte_count,
            total_byte_count=progress.total_byte_count,
        )
    )


def _count(spec: model_pb.ModelSpec, name: str, task: Task) -> int | None:
    if not spec.HasField(name):  # type: ignore[arg-type]  # the stub lists names as literals
        return None
    value: int = getattr(spec, name)
    if name in _GENERATION_ONLY and task is not Task.GENERATE:
        raise InvalidField.of_field(f"spec.{name}", "is for generation only")
    if value < _LEAST[name]:
        raise InvalidField.of_field(f"spec.{name}", f"must be at least {_LEAST[name]}, was {value}")
    return value


def _idle_sleep(spec: model_pb.ModelSpec) -> float | None:
    if not spec.HasField("idle_sleep"):
        return None
    seconds = _seconds(spec.idle_sleep, "spec.idle_sleep")
    if seconds <= 0:
        raise InvalidField.of_field("spec.idle_sleep", f"must be above 0 s, was {seconds:g}")
    return seconds


def _seconds(duration: Duration, field: str) -> float:
    seconds = duration.seconds + duration.nanos / 1e9
    if abs(duration.nanos) > 999_999_999 or duration.seconds * duration.nanos < 0 or not math.isfinite(seconds):
        raise InvalidField.of_field(field, "is no valid duration")
    return seconds
