"""On the CPU a request's numbers are the same bits in any batch, any chunking, after being put off, and resumed."""

import random

import pytest
import torch
from inference_svc.models import prepacked
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.onednn_linear import OneDnnLinear
from inference_svc.models.packed_linear import PackedLinear
from inference_svc.models.panel_linear import PanelLinear
from inference_svc.requests import Generation, OutputDetail, Sampling
from support.driving import Driver, generation, told_in
from support.generation_models import build_model

_PROMPT_LENGTHS = (1, 3, 20, 63, 64, 65, 100, 127, 128, 200, 260, 500)
_DETAIL = OutputDetail(logprobs=True, top_logprob_count=3)


def _asked() -> dict[str, Generation]:
    whims = random.Random(5)
    return {
        f"r{index}": generation(
            [whims.randrange(4, 500) for _ in range(length)],
            12,
            sampling=Sampling(temperature=whims.choice([0.0, 1.0]), top_p=whims.choice([0.9, 1.0]), seed=index),
            detail=_DETAIL,
        )
        for index, length in enumerate(_PROMPT_LENGTHS)
    }


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(torch.float32, PanelLinear), (torch.float32, OneDnnLinear), (torch.bfloat16, OneDnnLinear)],
)
def test_numbers_do_not_depend_on_company(
    architecture: str, dtype: torch.dtype, kind: type[PackedLinear], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepacked, "kinds_here", lambda: (kind,))
    torch.set_num_threads(1)
    model = build_model(architecture, dtype)
    runner = PackedGenerationRunner(model, slot_count=10, max_context_tokens=600, dtype=dtype)
    if dtype == torch.bfloat16 and not runner.batch_invariant:
        pytest.skip("this processor's bfloat16 products sum in an order that depends on the number of rows")
    assert runner.batch_invariant
    alone = told_in(Driver(runner, at_once=1).run(_asked()))
    assert told_in(Driver(runner).run(_asked())) == alone
    assert told_in(Driver(runner, chunk=50).run(_asked())) == alone
    whims = Driver(runner, chunk=90, whims=random.Random(2))
    assert told_in(whims.run(_asked())) == alone
    assert whims.put_off_count > 0


def test_numbers_do_not_depend_on_the_number_of_threads() -> None:
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        runner = PackedGenerationRunner(build_model("llama"), slot_count=10, max_context_tokens=600)
        found.append(told_in(Driver(runner).run(_asked())))
    torch.set_num_threads(before)
    assert found[1] == found[2] == found[0]


def test_a_model_whose_own_operators_keep_no_bits_makes_no_promise() -> None:
    torch.set_num_threads(1)
    runner = PackedGenerationRunner(build_model("modernbert_decoder"), slot_count=3, max_context_tokens=64)
    assert not runner.batch_invariant


def test_experts_make_no_promise_of_equal_bits() -> None:
    torch.set_num_threads(1)
    runner = PackedGenerationRunner(build_model("mixtral"), slot_count=2, max_context_tokens=64)
    assert not runner.batch_invariant
