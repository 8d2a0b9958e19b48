"""Linear layers of a benchmark model by each kind of packing and by torch itself: `python -m load.products`.

One pass over all weights of the 54.5M Llama, so that they come from memory as they do in a step, for several numbers of
rows. Kinds take turns; the median of each counts.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from inference_svc.models.onednn_linear import OneDnnLinear
from inference_svc.models.panel_linear import PanelLinear

from load.benchmark_models import VOCABULARY
from load.report import Meter, report

_LAYER = ((512, 512), (128, 512), (128, 512), (512, 512), (3328, 512), (3328, 512), (512, 3328))
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

Layers = Sequence[Callable[[torch.Tensor], torch.Tensor]]


def seconds_of_a_pass(layers: Layers, features: dict[int, torch.Tensor], inputs: Sequence[int]) -> float:
    start = time.perf_counter()
    for layer, count in zip(layers, inputs, strict=True):
        layer(features[count])
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    shapes = [*_LAYER * 8, (VOCABULARY, 512)]
    inputs = [count for _, count in shapes]
    plain = [torch.nn.Linear(count, outputs, bias=False) for outputs, count in shapes]
    kinds: dict[str, Layers] = {
        "panels": [PanelLinear(layer.weight, None) for layer in plain],
        "oneDNN": [OneDnnLinear(layer.weight, None) for layer in plain],
        "torch": plain,
    }
    work = sum(2 * outputs * count for outputs, count in shapes)
    table = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for rows in _ROWS:
            features = {count: torch.randn(rows, count) for count in set(inputs)}
            taken: dict[str, list[float]] = {kind: [] for kind in kinds}
            with torch.inference_mode(), Meter() as meter:
                for _ in range(options.rounds):
                    for kind, layers in kinds.items():
                        taken[kind].append(seconds_of_a_pass(layers, features, inputs))
            middle = {kind: median(times) for kind, times in taken.items()}
            table.append(
                {
                    "threads": threads,
                    "rows": rows,
                    **{f"{kind}_ms": 1e3 * seconds for kind, seconds in middle.items()},
                    "panels_GFLOP/s": work * rows / middle["panels"] / 1e9,
                    "oneDNN/panels": middle["oneDNN"] / middle["panels"],
                    "torch/panels": middle["torch"] / middle["panels"],
                    "others": meter.others,
                }
            )
    report("All linear layers of the 54.5M model, float32", table, name="products")


if __name__ == "__main__":
    main()
