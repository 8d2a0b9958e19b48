"""Whether a GPU's answers are right, for `load.gpu`: exact in float32, close in half precision, recorded as led."""

from typing import Any

import torch
from inference_svc.engine.runner import Row
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.paged_steps import PagedSettings, PagedSteps
from support.driving import Driver, generation
from support.generation_models import build_model

from load.gpu_parts import Counted, NoRecorder, Rows

_NEAR_TIE = 1e-3
_COSINE_LOST = 0.01  # against the plain model in the same number type
_PERPLEXITY_LOST = 0.03


def exact_rows(architecture: str, device: torch.device) -> Rows:
    """float32, greedy, chunked: the tokens of `generate` on the same device."""
    plain = build_model(architecture).to(device)
    paged = PagedSettings(8 * 256)
    runner = PackedGenerationRunner(
        build_model(architecture), slot_count=8, max_context_tokens=256, device=device, prepack=False, paged=paged
    )
    list(runner.warm_up())
    lengths = (1, 3, 17, 40, 64, 100, 130, 9)
    asked = {
        f"r{index}": generation([(7 * index + 13 * at) % 490 + 4 for at in range(length)], 16)
        for index, length in enumerate(lengths)
    }
    equal = near_ties = 0
    for each in Driver(runner, chunk=50).run(asked).values():
        ids = torch.tensor([each.asked.prompt_ids], device=device)
        with torch.inference_mode():
            made = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
            wanted = made[0, ids.shape[1] :].tolist()
            if each.output_ids == wanted:
                equal += 1
                continue
            first = next(at for at, pair in enumerate(zip(each.output_ids, wanted, strict=True)) if pair[0] != pair[1])
            best = plain(input_ids=made[:, : ids.shape[1] + first]).logits[0, -1].float().topk(2).values
            near_ties += int(float(best[0] - best[1]) < _NEAR_TIE)
    row = {"part": "exact, float32", "what": architecture, "equal": equal, "near_ties": near_ties, "of": len(lengths)}
    return [row | {"passed": equal + near_ties == len(lengths)}]


def close_rows(architecture: str, device: torch.device, dtype: torch.dtype) -> Rows:
    """Half precision against the plain float32 model: how alike the logits are, and the perplexity of a text; beside
    them the plain model of the same number type."""
    ids = [(13 * at) % 490 + 4 for at in range(300)]
    row = torch.tensor([ids], device=device)
    with torch.inference_mode():
        exact = build_model(architecture).to(device)(input_ids=row, use_cache=False).logits[0].float()
        model = build_model(architecture, dtype).to(device)
        plain = model(input_ids=row, use_cache=False).logits[0].float()
        steps = PagedSteps(model, 2, 512, PagedSettings(4 * 512))
        steps.bind()
        steps.settle(lambda logits: None)
        lengths, found, start = {0: 200}, [], 0
        for end in (120, 200, *range(201, 301)):
            packed_end = steps.lay([Row(0, start, ids[start:end], True, 0)], lengths)[0]
            found.append(steps.forward(range(packed_end - (end - start), packed_end)).clone())
            start = end
        steps.close(0)
    packed, whole = torch.cat(found), _perplexity(exact, row[0])
    told: dict[str, Any] = {
        "part": f"close, {str(dtype).removeprefix('torch.')}",
        "what": architecture,
        "cosine": _cosine(packed, exact),
        "plain_cosine": _cosine(plain, exact),
        "perplexity_ratio": _perplexity(packed, row[0]) / whole,
        "plain_perplexity_ratio": _perplexity(plain, row[0]) / whole,
    }
    is_close = told["cosine"] > told["plain_cosine"] - _COSINE_LOST
    alike = abs(told["perplexity_ratio"] / told["plain_perplexity_ratio"] - 1) < _PERPLEXITY_LOST
    return [told | {"passed": is_close and alike}]


def _cosine(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The least of all positions but one in a hundred."""
    return float(torch.nn.functional.cosine_similarity(found, expected, dim=-1).quantile(0.01))


def _perplexity(logits: torch.Tensor, ids: torch.Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).exp())


def repeat_row(device: torch.device, dtype: torch.dtype) -> Rows:
    """Recorded steps give the tokens of steps that the host leads, but where a tie falls otherwise, since recorded ones
    have rows that nobody reads; in float32 there is hardly one. Recorded here whatever attention does, with a small
    context, so that recording itself is seen on any GPU."""
    counted, told = Counted(device), []
    asked = {f"r{index}": generation([11 + index] * (5 + 9 * index), 24) for index in range(8)}
    for recorder in (counted, NoRecorder()):
        runner = PackedGenerationRunner(
            build_model("llama", dtype),
            slot_count=12,
            max_context_tokens=256,
            device=device,
            dtype=dtype,
            prepack=False,
            paged=PagedSettings(12 * 256, recorder=recorder),
        )
        list(runner.warm_up())
        told.append({name: each.output_ids for name, each in Driver(runner).run(asked).items()})
    equal = sum(told[0][name] == told[1][name] for name in asked)
    row = {"part": "recorded steps", "what": str(dtype).removeprefix("torch."), "sizes": counted.sizes}
    is_right = counted.sizes > 0 and (equal >= len(asked) - 1 or dtype != torch.float32)
    return [row | {"equal": equal, "of": len(asked), "passed": is_right}]
