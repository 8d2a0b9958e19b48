"""What stands between a model and torch's paged attention asks it for the right thing, and notices a wrong answer.

The kernel itself needs a GPU; here its documented meaning, written plainly, stands in for it.
"""

import random
from typing import Any

import pytest
import torch
from inference_svc.models.attention_kernel import Scoring
from inference_svc.models.decode_graphs import CallAgain
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.paged_steps import PagedSettings
from inference_svc.models.varlen_attention import VarlenAttention, difference_from_plain
from support.driving import Driver, generation
from support.generation_models import build_model
from support.plain_varlen import plain_varlen

torch.set_num_threads(1)

_CPU = torch.device("cpu")


@pytest.mark.parametrize("with_sinks", [False, True])
def test_the_kernel_is_asked_for_what_the_definition_gives(with_sinks: bool) -> None:
    kernel = VarlenAttention(plain_varlen, object(), torch.float32, takes_sinks=with_sinks)
    assert difference_from_plain(kernel, torch.float32, _CPU, with_sinks=with_sinks) < 1e-5


def _one_key_late(*arguments: Any, window_size: tuple[int, int], **named: Any) -> Any:
    return plain_varlen(*arguments, window_size=(max(window_size[0] - 1, -1), window_size[1]), **named)


def _nothing_for_the_last(*arguments: Any, **named: Any) -> Any:
    answer = plain_varlen(*arguments, **named)
    answer[-1] = torch.nan
    return answer


def _is_not_there(*arguments: Any, **named: Any) -> Any:
    raise RuntimeError("no kernel for this device")


@pytest.mark.parametrize("wrong", [_one_key_late, _nothing_for_the_last, _is_not_there])
def test_a_kernel_that_is_wrong_here_is_not_used(wrong: Any) -> None:
    assert (
        difference_from_plain(VarlenAttention(wrong, None, torch.float32), torch.float32, _CPU, with_sinks=False) > 3e-2
    )


def test_sums_in_the_order_of_another_number_of_rows_are_noticed() -> None:
    def mixed_up(*arguments: Any, window_size: tuple[int, int], **named: Any) -> Any:
        wide = arguments[5] == 1 and window_size[0] >= 512
        return plain_varlen(*arguments, window_size=(-1, -1) if wide else window_size, **named)

    kernel = VarlenAttention(mixed_up, object(), torch.float32, takes_sinks=True)
    assert difference_from_plain(kernel, torch.float32, _CPU, with_sinks=True) > 0.1


def test_layers_that_attend_in_another_type_are_not_for_it() -> None:
    kernel = VarlenAttention(plain_varlen, object(), torch.bfloat16)
    query, values = torch.zeros(1, 6, 64), torch.zeros(2, 256, 2, 64)
    assert not kernel.takes(query, values, Scoring(None))
    assert kernel.takes(query.bfloat16(), values.bfloat16(), Scoring(None))


def test_other_devices_and_number_types_have_no_such_kernel() -> None:
    assert VarlenAttention.where_right(torch.bfloat16, _CPU) is None
    assert VarlenAttention.where_right(torch.float32, torch.device("cuda")) is None


@pytest.mark.parametrize("architecture", ["llama", "mistral_windowed", "gpt_oss_sinks", "gemma2"])
def test_a_model_served_by_the_kernel_answers_as_by_the_definition(architecture: str) -> None:
    whims = random.Random(4)
    asked = {
        f"r{index}": generation([whims.randrange(4, 500) for _ in range(length)], 8)
        for index, length in enumerate((1, 5, 30, 120, 270))
    }
    answers = []
    for kernel in (None, VarlenAttention(plain_varlen, object(), torch.float32, takes_sinks=True)):
        paged = PagedSettings(256 * 12, kernel=kernel, recorder=CallAgain())
        runner = PackedGenerationRunner(build_model(architecture), slot_count=4, max_context_tokens=500, paged=paged)
        list(runner.warm_up())
        answers.append({name: each.output_ids for name, each in Driver(runner, chunk=50).run(asked).items()})
        assert runner.cache_block_tokens == (16 if kernel is None else 256)
    assert answers[0] == answers[1]
