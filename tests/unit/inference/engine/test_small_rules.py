"""The small pure rules that the engine is made of."""

import pytest
from inference_svc.engine.isolation import Isolation
from inference_svc.engine.runner import DeviceLost, OutOfDeviceMemory
from inference_svc.engine.step_budget import StepBudget
from inference_svc.engine.waiting_line import WaitingLine
from inference_svc.errors import SeamError, StepFailed


def test_a_budget_falls_below_what_was_too_big_and_comes_back():
    budget = StepBudget(100)
    assert budget.stepped(too_big=80) == 79
    assert budget.stepped(too_big=40) == 39
    assert budget.stepped(too_big=60) == 39
    seen = [budget.stepped(too_big=None) for _ in range(200)]
    assert seen[62] == 39
    assert seen[63] == 78
    assert seen[-1] == 100
    assert budget.stepped(too_big=1) == 2


def attempts(parts: list[int], fails) -> tuple[list, list[list[int]]]:
    tried: list[list[int]] = []

    def compute(some):
        tried.append(list(some))
        fails(some)
        return [-part for part in some]

    cut = lambda part: (part // 2, part - part // 2) if part > 1 else None  # noqa: E731
    return Isolation(compute, lambda part: part, cut).run(parts), tried


def test_what_fails_together_is_tried_in_halves_of_the_tokens():
    def poison(some):
        if 7 in some:
            raise ValueError("seven")

    results, tried = attempts([1, 1, 1, 1, 7, 1, 1, 1], poison)
    assert [result for result in results if not isinstance(result, SeamError)] == [-1] * 7
    assert isinstance(results[4], StepFailed)
    assert isinstance(results[4].__cause__, ValueError)
    assert len(tried) <= 7


def test_a_failure_that_does_not_come_again_fails_nobody():
    failures = [ValueError("once")]

    def once(some):
        if failures:
            raise failures.pop()

    assert attempts([1, 2, 3], once)[0] == [-1, -2, -3]


def test_one_part_too_big_for_the_memory_is_computed_in_pieces():
    def memory(some):
        if sum(some) > 3:
            raise OutOfDeviceMemory

    results, tried = attempts([10], memory)
    assert results == [-3]
    assert sum(sum(some) for some in tried if sum(some) <= 3) == 10


def test_a_lost_device_is_not_tried_again():
    def lost(some):
        raise DeviceLost

    with pytest.raises(DeviceLost):
        attempts([1, 2], lost)


def test_a_line_stays_small_however_many_come_and_leave():
    line: WaitingLine[str] = WaitingLine({}, 1000)
    line.push("stays", key=0, priority=1, tenant="t", step=0, rank=0.0, order=0)
    for key in range(1, 5000):
        line.push("goes", key=key, priority=1, tenant=f"t{key}", step=0, rank=1.0, order=key)
        line.remove(key)
        line.charge(f"t{key}", 1)
    assert len(line) == 1
    kept = sum(len(heap) for each in line._classes for heap in each.heaps.values())
    assert kept + sum(len(each.by_age) for each in line._classes) < 400
    assert len(line._tenants) < 2 * 1024 + 200


def test_those_who_waited_too_long_go_first_and_in_order_of_arrival():
    line: WaitingLine[str] = WaitingLine({}, 5)
    line.push("old batch", key=1, priority=0, tenant="a", step=0, rank=9.0, order=1)
    line.push("old normal", key=2, priority=1, tenant="b", step=0, rank=1.0, order=2)
    for step in range(1, 16):
        line.age(step)
    line.push("new interactive", key=3, priority=2, tenant="c", step=15, rank=0.0, order=3)
    served = [entry.waiter for _ in range(3) if (entry := line.pop()) is not None]
    assert served == ["old batch", "old normal", "new interactive"]
