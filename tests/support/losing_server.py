"""`python -m support.losing_server`: `seam-inference` over models that need no weights and a device that is lost as a
GPU is: torch raises its error in the middle of a step, and raises it again whenever the device is asked."""

import sys
from collections.abc import Sequence

import torch
from inference_svc.__main__ import main
from inference_svc.engine.runner import DeviceLost, Row, SampledToken
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.models.device_faults import device_faults_named
from inference_svc.requests import Task

from support.echo import EchoEncoder, EchoRunner, Gate, echo_model

_SAID = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported asynchronously"


class LosingRunner(EchoRunner):
    def step(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        with device_faults_named(torch.device("cuda"), answers=lambda device: False):
            try:
                return super().step(rows)
            except DeviceLost:
                raise torch.AcceleratorError(_SAID) from None


def load(spec: ModelSpec, _: object) -> LoadedModel:
    if spec.task is Task.GENERATE:
        return echo_model(spec.name, runner=LosingRunner(gate=Gate(), max_context_tokens=4096))
    return echo_model(spec.name, spec.task, runner=EchoEncoder() if spec.task is Task.EMBED else None)


if __name__ == "__main__":
    sys.exit(main(load=load))
