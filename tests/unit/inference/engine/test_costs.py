"""What is learnt from steps, and how little of it a single odd step may decide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference_svc.engine.chamber import prompt_tokens_of_a_step
from inference_svc.engine.costs import StepCosts
from inference_svc.engine.settings import EngineSettings
from inference_svc.requests import Task
from support.echo import echo_model


def taken(costs: StepCosts, *steps: tuple[int, float]) -> StepCosts:
    for tokens, seconds in steps:
        costs.stepped(tokens, step_seconds=seconds, turn_seconds=seconds)
    return costs


def test_before_any_step_nothing_costs_anything():
    costs = StepCosts(512)
    assert costs.seconds_per_prompt_token == costs.seconds_of_prompts(5000) == costs.seconds_per_decode_step == 0


def test_costs_follow_what_steps_take():
    costs = StepCosts(100)
    costs.stepped(0, step_seconds=0.5, turn_seconds=1.0)
    costs.stepped(100, step_seconds=2.5, turn_seconds=3.0)
    assert costs.seconds_per_decode_step == 1.0
    assert costs.seconds_per_prompt_token == pytest.approx(0.03)
    taken(costs, *[(100, 5.0)] * 100)
    assert costs.seconds_per_prompt_token == pytest.approx(0.05, rel=0.01)
    assert costs.step_seconds == pytest.approx(5.0, rel=0.01)


def test_what_a_step_costs_is_told_apart_from_what_its_tokens_cost():
    costs = taken(StepCosts(512), *[(tokens, 0.01 + tokens * 1e-4) for tokens in (20, 512, 300, 40, 512)])
    assert costs.seconds_of_prompts(5120) == pytest.approx(10 * (0.01 + 512e-4), rel=0.02)
    assert costs.seconds_of_prompts(20) == pytest.approx(0.012, rel=0.1)


def test_a_first_step_that_takes_long_does_not_make_long_prompts_look_hopeless():
    costs = taken(StepCosts(512), (20, 0.5))  # kernels are made, pages are touched
    assert costs.seconds_of_prompts(5120) == pytest.approx(5.0)
    taken(costs, (512, 0.06))
    assert costs.seconds_of_prompts(5120) < 3.0


def test_a_stall_among_small_steps_does_not_either():
    costs = taken(StepCosts(512), *[(20, 0.005)] * 50, (20, 2.0))
    assert costs.seconds_of_prompts(5120) < 3.0


def test_small_steps_say_little_of_large_ones_and_large_ones_say_it_at_once():
    costs = taken(StepCosts(512), *[(20, 0.005)] * 50)
    assert costs.seconds_of_prompts(5120) == pytest.approx(0.05, rel=0.01)
    taken(costs, (512, 0.12))
    assert costs.seconds_of_prompts(5120) == pytest.approx(1.2, rel=0.1)


def test_where_nothing_runs_beside_them_prompts_take_larger_steps():
    costs = taken(StepCosts(256), *[(512, 1.0)] * 50)
    assert costs.seconds_of_prompts(4096) == pytest.approx(8.0)


@pytest.mark.parametrize(("asked", "expected"), [(64, 64), (1000, 512), (None, 256)])
def test_prompts_beside_answers_have_half_a_steps_budget_or_what_is_asked(asked, expected):
    settings = EngineSettings(prompt_tokens_per_step=asked)
    assert prompt_tokens_of_a_step(echo_model("any", Task.GENERATE, step_token_budget=512), settings) == expected
    assert prompt_tokens_of_a_step(echo_model("any", Task.GENERATE, step_token_budget=1), settings) == 1
    assert prompt_tokens_of_a_step(echo_model("any", Task.EMBED, step_token_budget=512), settings) == 512


steps = st.tuples(st.integers(1, 512), st.floats(0, 100))


@given(st.lists(steps, min_size=1, max_size=30), st.integers(0, 10_000), st.integers(0, 10_000))
def test_more_tokens_never_cost_less(some, one, another):
    costs = taken(StepCosts(512), *some)
    less, more = sorted((one, another))
    assert 0 <= costs.seconds_of_prompts(less) <= costs.seconds_of_prompts(more) + 1e-9


@given(st.lists(steps, min_size=1, max_size=30))
def test_a_single_token_is_never_predicted_to_take_longer_than_the_longest_step(some):
    costs = taken(StepCosts(512), *some)
    longest = max(seconds for _, seconds in some)
    assert costs.seconds_of_prompts(1) <= longest + 1e-9
