"""Attention of prompts by our own kernel and by torch's operators: `python -m load.prompt_attention`.

One layer of the 54.5M Llama (8 heads of 64, 2 key heads), as a step asks for it, keys kept and all; for prompts of
several lengths and a chunk far into a long one. Kinds take turns; the median of each counts.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from unittest.mock import patch

import torch
from inference_svc.engine.runner import Row
from inference_svc.models.attention_kernel import Scoring
from inference_svc.models.kv_cache import SlotCache
from inference_svc.models.packed_attention import PackedAttention
from inference_svc.models.prompt_attention import PromptAttention
from inference_svc.models.step_plan import plan_step

from load.report import Meter, report

_HEADS, _KEY_HEADS, _SIZE, _CAPACITY = 8, 2, 64, 4096


@dataclass(frozen=True, slots=True)
class Case:
    says: str
    lengths: Sequence[int]
    """Of the prompts' tokens in this step."""
    start: int = 0
    """Position of the first of them."""

    @property
    def operations(self) -> int:
        """Of products with keys and values that are seen."""
        seen = sum(self.start + index + 1 for length in self.lengths for index in range(length))
        return 4 * _HEADS * _SIZE * seen


_CASES = (
    Case("8 prompts of 30", [30] * 8),
    Case("4 prompts of 125", [125] * 4),
    Case("1 prompt of 512", [512]),
    Case("512 behind 1,024", [512], 1024),
    Case("512 behind 3,584", [512], 3584),
)


class Layer:
    """Attention of one layer for a case."""

    def __init__(self, case: Case) -> None:
        cache = SlotCache(max(len(case.lengths), 2), _CAPACITY)
        rows = [Row(slot, case.start, (1,) * length, False, 0) for slot, length in enumerate(case.lengths)]
        self._attention = PackedAttention(cache, torch.float32, torch.device("cpu"))
        plan = plan_step(rows, dict.fromkeys(range(len(rows)), _CAPACITY), cache, side_by_side=False)
        self._attention.begin(plan, torch.tensor(plan.positions))
        shapes = [(len(plan.positions), heads, _SIZE) for heads in (_HEADS, _KEY_HEADS, _KEY_HEADS)]
        self._given = [torch.randn(shape).transpose(0, 1)[None] for shape in shapes]
        for part in cache.layer(0, *self._given[1:]):
            part.normal_()

    def seconds(self) -> float:
        start = time.perf_counter()
        self._attention.attend(0, *self._given, None, Scoring(None))
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    table = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for case in _CASES:
            kinds = {"ours": Layer(case)}
            with patch.object(PromptAttention, "where_possible", return_value=None):
                kinds["torch"] = Layer(case)
            taken: dict[str, list[float]] = {kind: [] for kind in kinds}
            with torch.inference_mode(), Meter() as meter:
                for _ in range(options.rounds + 1):
                    for kind, layer in kinds.items():
                        taken[kind].append(layer.seconds())
            middle = {kind: median(times[1:]) for kind, times in taken.items()}
            table.append(
                {
                    "threads": threads,
                    "prompts": case.says,
                    **{f"{kind}_ms": 1e3 * seconds for kind, seconds in middle.items()},
                    "ours_GFLOP/s": case.operations / middle["ours"] / 1e9,
                    "torch/ours": middle["torch"] / middle["ours"],
                    "others": meter.others,
                }
            )
    report("Attention of prompts, one layer of the 54.5M model, float32", table, name="prompt_attention")


if __name__ == "__main__":
    main()
