"""What torch raises, as the engine knows it: too little memory, a device that is gone, or a fault of the step's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from inference_svc.engine.runner import DeviceLost, OutOfDeviceMemory

_ALLOCATION_FAILED = "can't allocate memory"  # how torch's CPU allocator says it
_OUT_OF_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # outside of torch's own allocator
_OF_DEVICE = ("CUDA error", "CUDA driver error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "cuDNN error", "NCCL error")


@contextmanager
def device_faults_named(device: torch.device, answers: Callable[[torch.device], bool] | None = None) -> Iterator[None]:
    """Raises OutOfDeviceMemory or DeviceLost for what is one; everything else as it comes. After an error of the device
    it is asked whether it still answers: one that does not will not for any later step, in this process."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as lack:
        raise OutOfDeviceMemory(str(lack)) from lack
    except RuntimeError as failed:
        said = str(failed)
        if _ALLOCATION_FAILED in said or any(each in said for each in _OUT_OF_MEMORY):
            raise OutOfDeviceMemory(said) from failed
        if is_of_device(failed) and not (answers or _answers)(device):
            raise DeviceLost(said.splitlines()[0]) from failed
        raise


def is_of_device(failed: RuntimeError) -> bool:
    accelerator_error = getattr(torch, "AcceleratorError", None)  # torch 2.8 and later
    if accelerator_error is not None and isinstance(failed, accelerator_error):
        return True
    return any(each in str(failed) for each in _OF_DEVICE)


def _answers(device: torch.device) -> bool:
    """Whether the device still computes. A poisoned context gives its error again to whoever waits for it."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        return bool((torch.ones(1, device=device) + 1).item() == 2)
    except RuntimeError:
        return False
