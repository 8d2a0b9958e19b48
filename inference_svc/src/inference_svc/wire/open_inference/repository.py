"""What an operator asks of the model repository, in the words that load and unload models here."""

from collections.abc import Mapping

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from inference import model_config_pb2 as config_pb
from inference import open_inference_pb2 as pb
from seam.inference.v1 import model_service_pb2 as model_pb

from inference_svc.errors import InvalidField
from inference_svc.model import ModelSpec
from inference_svc.wire.model_wire import read_model_spec
from inference_svc.wire.open_inference.parameters import Given, integer_of, number_of
from inference_svc.wire.open_inference.tensors import SHOWN

UNLOAD_GRACE = 30.0  # seconds that requests have to end
_MAX_COUNT = (1 << 32) - 1
_TASKS: Mapping[str | None, model_pb.Task.ValueType] = {
    "generate": model_pb.TASK_GENERATE,
    "embed": model_pb.TASK_EMBED,
    "score": model_pb.TASK_SCORE,
}
_COUNTS = ("max_context_tokens", "cache_token_count", "slot_count", "step_token_budget")


def check_repository(name: str) -> None:
    if name:
        raise InvalidField.of_field("repository_name", "must be empty: there is one repository, without a name")


def read_load(request: pb.RepositoryModelLoadRequest) -> ModelSpec | None:
    """None where the request describes no model. Raises InvalidField, TextEmpty."""
    for name in request.parameters:
        if name != "config":
            raise InvalidField.of_field(f"parameters[{name[:SHOWN]}]", "is not known: there is config")
    if "config" not in request.parameters:
        return None
    config = config_pb.ModelConfig()
    try:
        json_format.Parse(request.parameters["config"].string_param, config, ignore_unknown_fields=True)
    except (json_format.ParseError, RecursionError) as error:
        raise InvalidField.of_field("config", f"is no ModelConfig as JSON: {str(error)[:SHOWN]}") from None
    given = Given({name: parameter.string_value for name, parameter in config.parameters.items()})
    spec = _spec(request.model_name, given)
    given.check_all_taken()
    return read_model_spec(spec)


def check_unload(request: pb.RepositoryModelUnloadRequest) -> None:
    for name in request.parameters:
        if name != "unload_dependents":
            raise InvalidField.of_field(f"parameters[{name[:SHOWN]}]", "is not known: there is unload_dependents")


def _spec(name: str, given: Given) -> model_pb.ModelSpec:
    task = given.text("task")
    if task not in _TASKS:
        raise InvalidField.of_field("config.parameters.task", f"must be one of {', '.join(filter(None, _TASKS))}")
    spec = model_pb.ModelSpec(
        name=name,
        task=_TASKS[task],
        source=given.text("source") or "",
        device=given.text("device") or "",
        dtype=given.text("dtype") or "",
    )
    for count in _COUNTS:
        if (value := given.take(count)) is not None:
            setattr(spec, count, integer_of(f"config.parameters.{count}", value, 0, _MAX_COUNT))
    if (seconds := given.take("idle_sleep_seconds")) is not None:
        spec.idle_sleep.CopyFrom(_duration("config.parameters.idle_sleep_seconds", seconds))
    return spec


def _duration(field: str, value: str) -> Duration:
    try:
        duration = Duration()
        duration.FromNanoseconds(round(number_of(field, value) * 1e9))
    except (ValueError, OverflowError):
        raise InvalidField.of_field(field, "is no number of seconds") from None
    return duration
