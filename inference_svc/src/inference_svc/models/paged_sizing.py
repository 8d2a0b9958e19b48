"""How many tokens a paged cache may hold on a GPU: what the weights and the largest step leave of its memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from inference_svc.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """Bytes of a device. `free` is what nobody holds, this process's reserve given back; `step_peak` what the largest
    step took for a while, beside what was held before and after it."""

    total: int
    free: int
    step_peak: int


def tokens_that_fit(memory: MeasuredMemory, share: float, bytes_per_token: int) -> int:
    """`share` of the whole device is for this process and whoever else holds some of it; what is held and what a step
    takes come off first. Can be below 0."""
    taken = memory.total - memory.free
    return int(memory.total * share - taken - memory.step_peak) // max(1, bytes_per_token)


def measured_tokens(
    device: torch.device,
    largest_step: Callable[[], object],
    *,
    share: float,
    bytes_per_token: int,
    most: int,
    least: int,
) -> int:
    """Computes the largest step and sees what it takes. No more than `most`, which is what all slots could ever hold,
    and just that on other devices. Raises ModelLoadError where not even `least` fit."""
    if device.type != "cuda":
        return most
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        largest_step()
    except torch.OutOfMemoryError as lack:
        raise ModelLoadError(f"{device} has no memory for a step beside the weights: make it smaller") from lack
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    fitting = tokens_that_fit(MeasuredMemory(total, free, peak), share, bytes_per_token)
    if fitting < least:
        raise ModelLoadError(
            f"{device} has room for a cache of {max(0, fitting)} tokens beside the weights and a step, and {least} are "
            "the least: give it more of the device's memory, a smaller step or a shorter context"
        )
    return min(fitting, most)
