"""Steps whose work was noted before hand over none of it, and give what they gave otherwise."""

import random
from collections.abc import Callable, Hashable
from ctypes import CFUNCTYPE, c_int64, c_void_p
from typing import Any

import pytest
import torch
from inference_svc.engine.runner import Row
from inference_svc.models import layer_stack, token_attention
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.layer_stack import Given, LayerSizes, LayerStack
from inference_svc.models.packed_attention import PackedAttention
from inference_svc.models.torch_threads import run
from inference_svc.requests import OutputDetail, Sampling
from support.driving import Driver, generation, told_in
from support.generation_models import build_model

PROMPT, LOGPROBS = tuple(range(5, 30)), OutputDetail(logprobs=True)


pytestmark = pytest.mark.usefixtures("panels")


def _runner(slots: int = 6) -> PackedGenerationRunner:
    return PackedGenerationRunner(build_model("llama"), slot_count=slots, max_context_tokens=200)


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers that attended since."""
    layers: list[int] = []
    own = PackedAttention.attend

    def attend(self: PackedAttention, layer: int, *given: Any) -> torch.Tensor:
        layers.append(layer)
        return own(self, layer, *given)

    monkeypatch.setattr(PackedAttention, "attend", attend)
    return layers


def test_a_step_of_a_shape_that_was_seen_hands_nothing_over(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = _runner()
    for slot in range(2):
        runner.open(slot, generation(PROMPT, 9))
        runner.step([Row(slot, 0, PROMPT, True, 0)])
    layers = _counted(monkeypatch)

    def step(output_index: int, *slots: int) -> int:
        position = len(PROMPT) + output_index - 1
        layers.clear()
        runner.step([Row(slot, position, (7,), True, output_index) for slot in slots])
        return len(layers)

    step(1, 0, 1)
    assert [step(2, 0, 1), step(3, 0, 1)] == [0, 0]
    step(4, 0)
    step(4, 1)
    assert [step(5, 0), step(5, 1), step(6, 1), step(6, 0)] == [0, 0, 0, 0], "whichever it is"
    torch.set_num_threads(3 if torch.get_num_threads() != 3 else 2)
    assert step(7, 0) == 2, "work is parted otherwise"


def _asked(chance: random.Random) -> dict[str, Any]:
    return {
        f"{n}": generation(
            [chance.randrange(3, 200) for _ in range(chance.randint(1, 60))],
            chance.randint(1, 50),
            sampling=Sampling(temperature=chance.choice((0.0, 0.8)), seed=n),
            detail=LOGPROBS,
        )
        for n in range(14)
    }


@pytest.mark.parametrize("most", [3, 128])
def test_who_joins_and_leaves_and_is_put_off_changes_no_bit(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few that are remembered, they are noted anew all the time."""
    monkeypatch.setattr(layer_stack, "_MOST_KEPT", most)
    monkeypatch.setattr(layer_stack, "_FEWEST_TOKENS", 1)  # so that memory grows, and what was kept goes
    monkeypatch.setattr(token_attention, "_WORTH_A_PART", 3000)  # so that attention has more parts as contexts grow
    runs = []
    for seed, shape in ((3, PackedAttention.shape), (5, PackedAttention.shape), (3, None)):
        monkeypatch.setattr(PackedAttention, "shape", shape)
        runs.append(told_in(Driver(_runner(), chunk=20, whims=random.Random(seed)).run(_asked(random.Random(1)))))
    assert runs[0] == runs[1] == runs[2]


def test_the_cache_of_a_sequence_that_is_gone_is_not_read() -> None:
    """A step is run again in another slot, with other keys."""
    runner = _runner()
    first = Driver(runner, at_once=1).run({"a": generation(PROMPT, 30, detail=LOGPROBS)})
    other = Driver(runner, at_once=1).run({"b": generation(PROMPT[::-1], 30, detail=LOGPROBS)})
    runner.open(0, generation((9,), 1))  # the slot that both had
    runner.step([Row(0, 0, (9,), True, 0)])
    again = Driver(_Shifted(runner), at_once=1).run(
        {"a": generation(PROMPT, 30, detail=LOGPROBS), "b": generation(PROMPT[::-1], 30, detail=LOGPROBS)}
    )
    assert [told_in(first)["a"], told_in(other)["b"]] == [told_in(again)["a"], told_in(again)["b"]]


class _Shifted:
    """A runner but for its first slot."""

    def __init__(self, runner: PackedGenerationRunner) -> None:
        self._runner = runner
        self.slot_count = 1

    def open(self, slot: int, asked: Any) -> Any:
        return self._runner.open(slot + 1, asked)

    def close(self, slot: int) -> None:
        self._runner.close(slot + 1)

    def step(self, rows: Any) -> Any:
        moved = [Row(row.slot + 1, row.start, row.token_ids, row.samples, row.output_index) for row in rows]
        return self._runner.step(moved)


# --- a stack of layers that double what they are given --------------------------------------------------------------


def _given(value: float, count: int = 2) -> Given:
    return Given(torch.full((1, count, 4), value), torch.zeros(1, count, 2), torch.zeros(1, count, 2))


def _doubled(calls: list[str], name: str = "") -> Callable[[Given, torch.Tensor], None]:
    def compute(given: Given, found: torch.Tensor) -> None:
        calls.append(name)

        def double(_: int) -> None:
            found.copy_(given.hidden * 2)

        run(CFUNCTYPE(None, c_void_p)(double), (c_int64 * 1)(), 1)

    return compute


def _stack(count: int = 2) -> LayerStack:
    stack = LayerStack()
    stack.count, stack.is_whole = count, True
    return stack


def _step(stack: LayerStack, given: Given, calls: list[str], shape: Hashable = "shape") -> torch.Tensor:
    for index in range(stack.count):
        if stack.has_given(index, given.hidden):
            continue
        hidden = stack.layer(index, given, _doubled(calls), may_wait=True, shape=shape)
        given = Given(hidden, given.cosines, given.sines)
    return given.hidden


def test_a_step_runs_again_with_what_it_is_given_now() -> None:
    stack, calls = _stack(), list[str]()
    found = [_step(stack, _given(value), calls).unique().tolist() for value in (1.0, 3.0, 5.0)]
    assert found == [[4.0], [12.0], [20.0]]
    assert len(calls) == 2, "by the first of them alone"


def test_a_step_of_other_tokens_is_not_the_same() -> None:
    stack, calls = _stack(), list[str]()
    found = [_step(stack, _given(1.0, count), calls).shape[1] for count in (2, 3, 40, 2)]
    assert (found, len(calls)) == ([2, 3, 40, 2], 8), "of the first two nothing is kept: memory grew"
    assert _step(stack, _given(2.0, 40), calls).unique().tolist() == [8.0]
    assert len(calls) == 8


def test_a_step_that_fails_between_two_layers_leaves_nothing_to_the_next() -> None:
    stack, calls = _stack(), list[str]()
    stack.layer(0, _given(1.0), _doubled(calls, "of the one that failed"), may_wait=True, shape="shape")
    assert stack.kept_count == 0
    assert _step(stack, _given(2.0), calls).unique().tolist() == [8.0]
    assert stack.kept_count == 1


def test_layers_between_which_something_happens_are_not_run_again() -> None:
    stack, calls = _stack(), list[str]()
    for _ in range(2):
        first = stack.layer(0, _given(1.0), _doubled(calls), may_wait=True, shape="shape")
        other = Given(first[:, :], torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
        assert stack.layer(1, other, _doubled(calls), may_wait=True, shape="shape").unique().tolist() == [4.0]
    assert (stack.kept_count, len(calls)) == (0, 4)


def test_memory_of_a_long_step_is_given_back() -> None:
    """Nothing may follow it."""
    stack = _stack()
    sizes = LayerSizes(hidden=1024, heads=2048, head=64, head_count=16, key_head_count=8, gates=6144, gated=3072)
    held: list[int] = []

    def compute(given: Given, _: torch.Tensor) -> None:
        stack.rooms(given.hidden.shape[1], sizes)
        held.append(stack.memory_byte_count)

    for count, kept in ((16, True), (4096, False), (8, True)):
        for layer in range(2):
            stack.layer(layer, _given(1.0, count), compute, may_wait=False)
        assert all(held)
        assert bool(stack.memory_byte_count) == kept
