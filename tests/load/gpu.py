"""Everything that is measured on a GPU, in one run of under six minutes: `python -m load.gpu` from tests/.

Needs torch, transformers and numpy alone (PYTHONPATH: inference_svc/src and tests). Each part stands alone: one that
fails is a row that says so. `--device cpu --tiny` goes the same way on any machine, for the way's sake.
"""

import argparse
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from inference_svc.models.placement import prepare

from load import gpu_answers as answers
from load import gpu_parts as parts

_SECONDS = 330.0


class Account:
    """Rows of all parts, written after each of them, so that nothing is lost where a later one ends the process."""

    def __init__(self, out: Path, seconds: float) -> None:
        self.rows: parts.Rows = []
        self._out = out
        self._until = time.monotonic() + seconds

    def take(self, name: str, part: Callable[[], parts.Rows]) -> None:
        if time.monotonic() > self._until:
            self._add([{"part": name, "failed": "no time was left"}])
            return
        began = time.monotonic()
        try:
            self._add(part())
        except Exception as error:
            traceback.print_exc()
            said = str(error).splitlines() or [""]
            self._add([{"part": name, "failed": f"{type(error).__name__}: {said[0][:120]}"}])
        print(f"  {name}: {time.monotonic() - began:.1f} s", flush=True)

    def _add(self, rows: parts.Rows) -> None:
        self.rows += rows
        for row in rows:
            print("  ".join(f"{key}={_shown(value)}" for key, value in row.items()), flush=True)
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._out.write_text(json.dumps({"environment": _environment(), "rows": self.rows}, indent=1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=_SECONDS)
    default = Path(os.environ.get("OUT", str(Path(__file__).parent / "results")))
    parser.add_argument("--out", type=Path, default=default / "gpu.json")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    prepare(device)
    account = Account(options.out, options.seconds)
    measure(account, device, dtype, parts.TINY if options.tiny else parts.Scale())
    _table(account.rows)
    print(f"written: {options.out}")
    return int(any("failed" in row or row.get("passed") is False for row in account.rows))


def measure(account: Account, device: torch.device, dtype: torch.dtype, scale: parts.Scale) -> None:
    """Speed first: it needs the machine as it was found."""
    made: dict[str, Any] = {}

    def references() -> parts.Rows:
        made["bandwidth"], made["matrix"] = parts.bandwidth(device, scale), parts.matrix_rate(device, dtype, scale)
        rates = {"gigabytes_per_second": made["bandwidth"] / 1e9, "teraflops": made["matrix"] / 1e12}
        return [{"part": "references", "what": "copy, matrix product", **rates}]

    def models() -> parts.Rows:
        made["model"] = parts.made_llama(device, dtype, scale)
        began = time.monotonic()
        recorder = parts.recorder_as_served(device, dtype)
        made["runner"] = parts.serving(made["model"], device, dtype, scale, recorder)
        sizes = recorder.sizes if isinstance(recorder, parts.Counted) else 0
        made["led"] = f"{sizes} sizes recorded" if sizes else "led by the host"
        millions = sum(parameter.numel() for parameter in made["model"].parameters()) / 1e6
        described = {"way": made["runner"].way, "steps": made["led"], "load_seconds": time.monotonic() - began}
        return [{"part": "model", "what": f"Llama, {millions:.0f} M parameters", **described}]

    def decoding(*, drawn: bool) -> parts.Rows:
        return parts.decode_rows(made["runner"], made["model"], made["bandwidth"], scale, made["led"], drawn=drawn)

    def led() -> parts.Rows:
        model = parts.made_llama(device, dtype, scale)
        runner = parts.serving(model, device, dtype, scale, parts.NoRecorder())
        return parts.decode_rows(runner, model, made["bandwidth"], scale, "led by the host")

    account.take("references", references)
    account.take("model", models)
    account.take("decode", lambda: decoding(drawn=False))
    account.take("decode, half drawn", lambda: decoding(drawn=True))
    account.take("prefill", lambda: parts.prefill_row(made["runner"], made["model"], made["matrix"], scale))
    account.take("host gap", lambda: parts.host_gap_row(made["runner"], device, scale))
    if made.get("led") != "led by the host":
        account.take("decode without graphs", led)
    account.take("encode", lambda: parts.encode_rows(device, dtype, made["matrix"], scale))
    for each in dict.fromkeys((torch.float32, dtype)):
        account.take("recorded steps", lambda each=each: answers.repeat_row(device, each))
    made.clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    for architecture in scale.architectures:
        account.take(f"exact {architecture}", lambda name=architecture: answers.exact_rows(name, device))
        if dtype != torch.float32:
            account.take(f"close {architecture}", lambda name=architecture: answers.close_rows(name, device, dtype))


def _table(rows: parts.Rows) -> None:
    """One a part, since parts tell of different things."""
    kinds: dict[tuple[str, ...], parts.Rows] = {}
    for row in rows:
        kinds.setdefault(tuple(row), []).append(row)
    for columns, alike in kinds.items():
        cells = [list(columns), *([_shown(row[column]) for column in columns] for row in alike)]
        widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
        print()
        for line in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def _shown(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _environment() -> dict[str, object]:
    import transformers

    on_gpu = torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


if __name__ == "__main__":
    raise SystemExit(main())
