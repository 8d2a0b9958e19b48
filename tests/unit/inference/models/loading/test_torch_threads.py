"""Which OpenMP library torch's threads are of, and work that they share."""

from pathlib import Path

import pytest
import torch
from inference_svc.models.elementwise import Scale
from inference_svc.models.elementwise_kernel import NORM_SIZE, compile_norm
from inference_svc.models.orders import order_of
from inference_svc.models.torch_threads import run, runtime_of_torch, sharing

_TORCH = Path("/env of mine/torch")
_OWN = "/env of mine/torch/lib/libgomp.so.1"
_BESIDE = "/env of mine/torch.libs/libgomp-a34b3233.so.1.0.0"
_OTHER = "/env of mine/scikit_learn.libs/libgomp-d22c30c5.so.1.0.0"
_SYSTEM = "/usr/lib/libiomp5.so"


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([], None),
        ([_OWN], _OWN),
        ([_SYSTEM], _SYSTEM),
        ([_OWN, _OTHER], _OWN),
        ([_OTHER, _BESIDE], _BESIDE),
        ([_OTHER, _SYSTEM], None),
        ([_OWN, _BESIDE], None),
        (["/usr/lib/libgomping.so", "/usr/lib/libompx.so"], None),
    ],
)
def test_the_library_of_torch_is_told_from_those_of_others(paths: list[str], expected: str | None) -> None:
    mapped = "\n".join(
        f"7f73a3{index}00000-7f73a3837000 r-xp 00000000 fe:00 53  {path}" for index, path in enumerate(paths * 2)
    )
    assert runtime_of_torch(mapped + "\n7ffd r--p 0 00:00 0 [vdso]", _TORCH) == expected


@pytest.mark.skipif(sharing() is None, reason="torch's threads are of a library that we do not know")
def test_many_callers_share_work_at_once() -> None:
    """Engines of several models each have a thread that calls: nothing is lost or done twice."""
    from concurrent.futures import ThreadPoolExecutor

    rows = torch.randn(64, 512)
    scale = Scale(torch.ones(512), 0.0)
    expected = torch.nn.functional.rms_norm(rows, (512,))

    def normalise(_: int) -> torch.Tensor:
        result = torch.full_like(rows, torch.nan)
        sizes = (scale.address, result.data_ptr(), 64, 512, 1, 0)
        run(compile_norm(), order_of(NORM_SIZE, rows.data_ptr(), 0, 0, *sizes), 3)
        return result

    with ThreadPoolExecutor(4) as callers:
        for found in callers.map(normalise, range(200)):
            assert torch.allclose(found, expected, atol=1e-5)
