"""What the engine may rely on beside the tokens: prompt logprobs, faults that stay with their request, retries."""

import random

import pytest
import torch
from inference_svc.engine.runner import OutOfDeviceMemory, Row
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.paged_steps import PagedSettings
from inference_svc.requests import OutputDetail, Sampling
from support.driving import Driver, generation
from support.generation_models import build_model

torch.set_num_threads(1)


def _runner(architecture: str = "llama", **settings: object) -> PackedGenerationRunner:
    return PackedGenerationRunner(build_model(architecture), slot_count=4, max_context_tokens=300, **settings)  # type: ignore[arg-type]


def _prompt(length: int, seed: int = 0) -> list[int]:
    whims = random.Random(seed)
    return [whims.randrange(4, 500) for _ in range(length)]


@pytest.mark.parametrize("paged", [None, PagedSettings(1200)])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_prompt_logprobs_are_the_models_own_in_any_chunks(chunk: int, paged: PagedSettings | None) -> None:
    prompt = _prompt(90)
    detail = OutputDetail(logprobs=True, top_logprob_count=2, prompt_logprobs=True)
    asked = {"asks": generation(prompt, 3, detail=detail), "does not": generation(_prompt(50, 1), 3)}
    answers = Driver(_runner(paged=paged), chunk=chunk).run(asked)
    told = answers["asks"].told[0].prompt_logprobs
    with torch.inference_mode():
        expected = torch.log_softmax(build_model("llama")(input_ids=torch.tensor([prompt])).logits[0], -1)
    assert len(told) == len(prompt) - 1
    for position, (own, top) in enumerate(told):
        assert own == pytest.approx(float(expected[position, prompt[position + 1]]), abs=1e-3)
        assert [value for _, value in top] == pytest.approx(expected[position].topk(2).values.tolist(), abs=1e-3)
    assert all(not each.prompt_logprobs for each in answers["asks"].told[1:] + answers["does not"].told)


def test_a_resumed_answer_brings_no_prompt_logprobs_again() -> None:
    detail = OutputDetail(logprobs=True, prompt_logprobs=True)
    asked = {"again": generation(_prompt(20), 4, detail=detail, resumed_ids=[5, 6])}
    assert all(not each.prompt_logprobs for each in Driver(_runner()).run(asked)["again"].told)


def test_a_numerical_fault_stays_with_its_sequence_and_leaves_with_it() -> None:
    poisonous = build_model("llama_scaled_rope")
    with torch.no_grad():
        poisonous.get_input_embeddings().weight[3] = torch.nan  # no other prompt has token 3
    runner = PackedGenerationRunner(poisonous, slot_count=2, max_context_tokens=300)
    good = {"good": generation(_prompt(40), 8)}
    expected = Driver(runner).run(good)["good"].output_ids
    runner.open(0, generation([3, 9, 9], 4))
    runner.open(1, good["good"])
    poisoned, fine = runner.step([Row(0, 0, [9, 3, 9], True, 0), Row(1, 0, good["good"].prompt_ids, True, 0)])
    assert poisoned is not None
    assert fine is not None
    assert not poisoned.finite
    assert fine.finite
    assert fine.token_id == expected[0]
    runner.close(0)
    runner.close(1)
    for slot_order in (0, 1):  # both slots serve again, one of them where the poison was
        again = {f"{slot_order}{index}": good["good"] for index in range(2)}
        assert all(each.output_ids == expected for each in Driver(runner).run(again).values())


def test_a_step_without_memory_can_come_again_smaller() -> None:
    model = build_model("llama")
    runner = PackedGenerationRunner(model, slot_count=4, max_context_tokens=300)
    sampling = Sampling(temperature=1.0, frequency_penalty=1.5, seed=3)
    asked = {f"r{index}": generation(_prompt(30, index), 6, sampling=sampling) for index in range(3)}
    expected = {name: each.output_ids for name, each in Driver(runner).run(asked).items()}

    def refuse_big_steps(module: torch.nn.Module, arguments: object, named: dict[str, torch.Tensor]) -> None:
        if named["input_ids"].numel() > 20:
            raise torch.OutOfMemoryError("more than there is")

    with model.register_forward_pre_hook(refuse_big_steps, with_kwargs=True):
        runner.open(0, asked["r0"])
        with pytest.raises(OutOfDeviceMemory):
            runner.step([Row(0, 0, asked["r0"].prompt_ids, True, 0)])
        runner.close(0)
        smaller = Driver(runner, chunk=6).run(asked)
    assert {name: each.output_ids for name, each in smaller.items()} == expected


def test_another_failure_is_told_as_it_is() -> None:
    runner = _runner()
    runner.open(0, generation([5], 3))
    with pytest.raises(IndexError):
        runner.step([Row(0, 0, [100_000], True, 0)])


@pytest.mark.parametrize("prepack", [True, False])
def test_a_type_without_packed_kernels_is_computed_plainly(prepack: bool) -> None:
    model = build_model("gpt2", torch.float64)
    runner = PackedGenerationRunner(model, slot_count=2, max_context_tokens=100, dtype=torch.float64, prepack=prepack)
    assert not runner.batch_invariant
    prompt = _prompt(12)
    with torch.inference_mode():
        plain = build_model("gpt2", torch.float64).generate(torch.tensor([prompt]), max_new_tokens=8)
    assert Driver(runner).run({"r": generation(prompt, 8)})["r"].output_ids == plain[0, 12:].tolist()


def test_weights_are_copied_out_of_where_they_were_loaded() -> None:
    model = build_model("llama")
    loaded = [parameter.data for parameter in model.parameters()]
    PackedGenerationRunner(model, slot_count=2, max_context_tokens=64)
    kept = {parameter.data_ptr() for parameter in model.parameters()}
    assert kept
    assert not kept & {weight.data_ptr() for weight in loaded}


def test_how_a_model_is_computed_is_told() -> None:
    runner = _runner()
    bits = "the same bits in any batch" if runner.batch_invariant else "last bits depend on the batch"
    assert runner.way.startswith("15 linear layers packed, ")
    assert runner.way.endswith(f" of 2 decoder layers in few, {bits}")
    assert "packed" not in _runner(prepack=False).way
    assert "attention reads copies of its blocks" in _runner(prepack=False, paged=PagedSettings(1200)).way
