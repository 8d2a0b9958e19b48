"""From the host to where a model lives."""

import numpy as np
import torch


def sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """On a CPU the same memory; elsewhere a copy that nobody waits for, from memory that stays put until it is made."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
