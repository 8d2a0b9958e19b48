"""What the processor is like, where work is done in another way for it."""

import torch


def has_narrow_vectors() -> bool:
    """Whether it has AVX2 and nothing wider: what our own kernels of products are made for."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"
