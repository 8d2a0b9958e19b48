"""What a watcher makes of two looks at a status."""

from dataclasses import replace

import pytest
from seam_client.answers import DeviceTime, ModelLoad, Replica, ReplicaState, Status, WaitingByPriority
from seam_client.command.rates import CAUSES, Rates
from seam_client.command.status_view import sparkline


def load(model="chat", output=0, inputs=0, requests=0):
    return ModelLoad(model, 0, 0, 0, 0, 0.0, 0.0, output, inputs, requests, WaitingByPriority(0, 0, 0))


def status(*models, computing=0.0, no_work=0.0, age=0.0, replica_id="r"):
    spent = DeviceTime(computing, no_work, 0.0, 0.0, 0.0)
    return Status("1", 1.0, (Replica("h:1", replica_id, ReplicaState.READY, 0, models, spent, age),))


def test_rates_are_taken_between_the_moments_at_which_the_replica_told():
    rates = Rates()
    rates.look(status(load(output=100, requests=1), computing=1.0, age=0.4), now=10.0)
    after = rates.look(status(load(output=300, inputs=50, requests=5), computing=2.5, no_work=0.5, age=0.0), now=11.6)
    chat = after["h:1"].models["chat"]
    assert (chat.output_tokens, chat.input_tokens, chat.requests) == pytest.approx((100.0, 25.0, 2.0))
    assert dict(zip(CAUSES, after["h:1"].shares, strict=True)) == pytest.approx(
        {"computing": 0.75, "host": 0.0, "slow readers": 0.0, "loading": 0.0, "no work": 0.25}
    )


def test_the_first_look_tells_shares_since_the_start_and_no_rates():
    first = Rates().look(status(load(output=100), computing=3.0, no_work=1.0), now=1.0)["h:1"]
    assert (dict(first.models), first.shares) == ({}, (0.75, 0.0, 0.0, 0.0, 0.25))


def test_rates_stay_while_a_replica_tells_nothing_new():
    rates = Rates()
    rates.look(status(load(), computing=1.0), now=0.0)
    known = rates.look(status(load(output=10), computing=2.0), now=1.0)
    assert rates.look(status(load(output=10), computing=2.0, age=0.2), now=1.2) == known


def test_a_replica_that_came_anew_starts_from_nothing():
    rates = Rates()
    rates.look(status(load(output=1000), computing=9.0), now=0.0)
    rates.look(status(load(output=2000), computing=10.0), now=1.0)
    anew = rates.look(status(load(output=5), computing=0.1, replica_id="other"), now=2.0)["h:1"]
    assert (dict(anew.models), anew.shares) == ({}, (1.0, 0.0, 0.0, 0.0, 0.0))


def test_a_model_that_came_anew_has_no_negative_rate():
    rates = Rates()
    rates.look(status(load(output=1000), computing=1.0), now=0.0)
    chat = rates.look(status(load(output=5), load("more"), computing=2.0), now=1.0)["h:1"].models
    assert (chat["chat"].output_tokens, chat["more"].output_tokens) == (0.0, 0.0)


def test_a_replica_that_is_gone_or_silent_is_forgotten():
    rates = Rates()
    rates.look(status(load(), computing=1.0), now=0.0)
    silent = replace(status(load()).replicas[0], device_time=None)
    assert rates.look(Status("1", 1.0, (silent,)), now=1.0) == {}
    assert rates.look(Status("1", 1.0, ()), now=2.0) == {}


def test_a_line_of_the_past_is_scaled_to_its_highest():
    assert sparkline((0.0, 50.0, 100.0)) == "▁▅█"
    assert sparkline((0.0, 0.0)) == ""
