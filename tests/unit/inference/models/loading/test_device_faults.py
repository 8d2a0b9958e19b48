"""A fault of the device is one of three things, for whoever computes on it."""

import pytest
import torch
from inference_svc.engine.runner import DeviceLost, OutOfDeviceMemory
from inference_svc.models.device_faults import device_faults_named

_ILLEGAL = "CUDA error: an illegal memory access was encountered\nmore words"
_GPU = torch.device("cuda")


def _named(error: Exception, *, answers: bool) -> Exception:
    with pytest.raises(Exception) as found, device_faults_named(_GPU, lambda device: answers):  # noqa: PT011
        raise error
    return found.value


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(_ILLEGAL),
        RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA driver error: unspecified launch failure"),
    ],
)
def test_a_device_that_answers_no_more_is_lost_and_one_that_does_has_failed_a_step(error: RuntimeError) -> None:
    lost = _named(error, answers=False)
    assert isinstance(lost, DeviceLost)
    assert lost.__cause__ is error
    assert "more words" not in str(lost)
    assert _named(error, answers=True) is error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        torch.AcceleratorError("CUDA error: out of memory\n"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_a_lack_of_memory_is_told_as_such(error: Exception) -> None:
    assert isinstance(_named(error, answers=False), OutOfDeviceMemory)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), IndexError("out of range"), ValueError("no")])
def test_a_fault_of_the_step_is_its_own(error: Exception) -> None:
    assert _named(error, answers=False) is error
