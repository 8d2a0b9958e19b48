"""The parts of `seam load`: schedules, the open loop, and the figures."""

import asyncio
import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seam_client.load.outcome import Outcome
from seam_client.load.schedule import (
    Arrivals,
    Kind,
    Lengths,
    Pattern,
    Shot,
    drawn,
    lengths_of,
    mix_of,
    rates_of,
    split,
    text_of,
    traced,
)
from seam_client.load.shooting import Rules, Shooting, shoot
from seam_client.load.summary import Slo, percentiles_of, summary_of

CHAT = Pattern({Kind.CHAT: 1.0}, Arrivals.POISSON, Lengths("fixed", 10), Lengths("fixed", 4))


def answered(due, first, end, *, tokens=3, texts=()):
    return Outcome(due, Kind.CHAT, due, first, end, list(texts), 5, tokens)


def failed(due, end, code, reason="", *, retry_info=False):
    return Outcome(due, Kind.CHAT, due, None, end, code=code, reason=reason, retry_info=retry_info)


# --- schedules --------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_schedule_and_another_one_another():
    assert drawn(CHAT, 50.0, 10.0, seed=1) == drawn(CHAT, 50.0, 10.0, seed=1)
    assert drawn(CHAT, 50.0, 10.0, seed=1) != drawn(CHAT, 50.0, 10.0, seed=2)


def test_poisson_arrivals_come_at_the_rate_and_spread_as_they_should():
    moments = [shot.at for shot in drawn(CHAT, 100.0, 200.0, seed=3)]
    gaps = [after - before for before, after in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.01, rel=0.05)
    assert deviation == pytest.approx(mean, rel=0.05)


def test_constant_arrivals_are_evenly_spaced():
    even = Pattern({Kind.EMBED: 1.0}, Arrivals.CONSTANT, Lengths("fixed", 1), Lengths("fixed", 1))
    assert [shot.at for shot in drawn(even, 4.0, 1.0, seed=0)] == [0.0, 0.25, 0.5, 0.75]


def test_a_mix_is_kept_in_its_proportions():
    mixed = Pattern(mix_of("chat=3,embed=1"), Arrivals.CONSTANT, Lengths("fixed", 1), Lengths("fixed", 1))
    shots = drawn(mixed, 100.0, 100.0, seed=0)
    assert sum(shot.kind is Kind.CHAT for shot in shots) / len(shots) == pytest.approx(0.75, abs=0.03)


def test_log_normal_lengths_have_the_median_that_was_asked():
    numbers = random.Random(0)
    drawn_lengths = sorted(lengths_of("lognormal:200:0.8").draw(numbers) for _ in range(4001))
    assert drawn_lengths[2000] == pytest.approx(200, rel=0.1)
    assert drawn_lengths[0] >= 1


@pytest.mark.parametrize("said", ["", "x", "0", "-3", "lognormal:200", "uniform:1:2:3", "nan", "normal:1:1"])
def test_lengths_that_make_no_sense_are_refused(said):
    with pytest.raises(ValueError, match=r"."):
        lengths_of(said)


def test_rates_are_one_several_or_a_sweep():
    assert rates_of("20") == [20.0]
    assert rates_of("5,10") == [5.0, 10.0]
    assert rates_of("5:20:5") == [5.0, 10.0, 15.0, 20.0]
    for wrong in ("0", "5:1:1", "1:5:0", "inf", "a"):
        with pytest.raises(ValueError, match=r"."):
            rates_of(wrong)


@pytest.mark.parametrize("name", ["trace.csv", "trace.jsonl"])
def test_a_trace_gives_its_arrivals_from_its_first_on(tmp_path: Path, name: str):
    rows = [{"timestamp": 101.5, "prompt_tokens": 10, "output_tokens": 7}, {"timestamp": 100, "kind": "embed"}]
    file = tmp_path / name
    if file.suffix == ".csv":
        file.write_text("timestamp,prompt_tokens,output_tokens,kind\n101.5,10,7,\n100,,,embed\n")
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert traced(file) == [Shot(0.0, Kind.EMBED, 200, 64), Shot(1.5, Kind.CHAT, 40, 7)]


@pytest.mark.parametrize("text", ["", "at,kind\n1,letter\n", "at\nsoon\n"])
def test_a_trace_that_cannot_be_read_says_where(tmp_path: Path, text: str):
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"trace\.csv"):
        traced(file)


@given(st.integers(1, 500), st.integers(0, 10**6))
def test_texts_have_the_length_and_no_two_begin_alike(characters, number):
    shot = Shot(0.0, Kind.CHAT, characters, 1)
    assert len(text_of(shot, number)) == characters
    if characters >= 8:
        assert text_of(shot, number) != text_of(shot, number + 1)


@given(st.integers(0, 50), st.integers(1, 5))
def test_workers_share_all_of_a_schedule(count, parts):
    shots = [Shot(float(n), Kind.CHAT, 1, 1) for n in range(count)]
    shared = sorted((pair for part in split(shots, parts) for pair in part), key=lambda pair: pair[0])
    assert shared == list(enumerate(shots))


# --- the open loop ----------------------------------------------------------------------------------------------------


class HoldingSender:
    """Answers nothing until it is let go."""

    def __init__(self, expected):
        self.started = 0
        self._expected, self._all_there, self.let_go = expected, asyncio.Event(), asyncio.Event()

    async def send(self, shot, text, outcome, timeout, clock):
        self.started += 1
        if self.started == self._expected:
            self._all_there.set()
        await self.let_go.wait()
        outcome.end = clock()

    async def all_there(self):
        await asyncio.wait_for(self._all_there.wait(), 20)

    async def close(self): ...


def at_once(count):
    return list(enumerate(Shot(0.001 * n, Kind.CHAT, 5, 1) for n in range(count)))


async def test_requests_leave_though_nothing_was_answered_and_what_exceeds_the_bound_never_does():
    sender = HoldingSender(expected=4)
    shooting = asyncio.create_task(shoot(sender, at_once(10), Rules(max_in_flight=4)))
    await sender.all_there()
    sender.let_go.set()
    outcomes = (await shooting).outcomes
    assert len(outcomes) == 10
    assert sum(outcome.sent is None for outcome in outcomes) == 10 - sender.started
    assert all(outcome.succeeded for outcome in outcomes if outcome.sent is not None)


async def test_what_is_unanswered_at_the_end_is_given_up_and_told_so():
    done = await shoot(HoldingSender(expected=99), at_once(3), Rules(drain=0.01))
    assert [outcome.code for outcome in done.outcomes] == ["UNFINISHED"] * 3


async def test_latency_counts_from_when_a_request_was_due_not_from_when_it_left():
    outcome = Outcome(due=1.0, kind=Kind.CHAT, sent=4.0, first=5.0, end=6.0)
    assert (outcome.first_latency, outcome.latency) == (4.0, 5.0)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_percentiles_are_values_that_were_measured():
    found = percentiles_of([float(n) for n in range(1, 101)])
    assert found is not None
    assert (found.count, found.p50, found.p90, found.p99, found.max) == (100, 50.0, 90.0, 99.0, 100.0)
    assert percentiles_of([]) is None


def test_a_summary_tells_what_was_good_refused_failed_and_never_sent_and_leaves_the_warm_up_out():
    outcomes = [
        answered(0.5, 0.6, 0.7),  # of the warm-up
        answered(1.0, 1.1, 1.5, tokens=5, texts=[1.1, 1.2, 1.5]),
        answered(2.0, 2.6, 2.9),  # its first token too late
        answered(3.0, 3.1, 9.0),  # its end too late
        failed(4.0, 4.01, "RESOURCE_EXHAUSTED", "QUEUE_FULL", retry_info=True),
        failed(4.0, 4.03, "RESOURCE_EXHAUSTED", "QUEUE_FULL"),
        failed(4.5, 4.6, "UNAVAILABLE", "NO_REPLICA", retry_info=True),
        Outcome(4.9, Kind.CHAT),
    ]
    slo = Slo(first_token=0.5, end_to_end=2.0)
    told = summary_of([Shooting(outcomes, [0.001], 0.1)], rate=1.6, seconds=5.0, warm_up=1.0, slo=slo)
    assert (told.due, told.sent, told.not_sent, told.succeeded, told.good) == (7, 6, 1, 3, 1)
    assert (told.goodput, told.good_share) == (0.25, 1 / 7)
    (refused,) = told.refused
    assert (refused.reason, refused.count, refused.with_retry_info) == ("QUEUE_FULL", 2, 1)
    assert refused.latency is not None
    assert refused.latency.max == pytest.approx(0.03)
    assert [(each.code, each.reason, each.count) for each in told.errors] == [("UNAVAILABLE", "NO_REPLICA", 1)]
    assert told.per_output_token is not None
    assert told.per_output_token.p50 == pytest.approx(0.1)
    assert told.between_texts is not None
    assert told.between_texts.max == pytest.approx(0.3)


@pytest.mark.parametrize(("cpu", "late", "saturated"), [(0.2, 0.0, False), (0.95, 0.0, True), (0.2, 0.2, True)])
def test_a_client_that_is_the_bottleneck_says_so(cpu, late, saturated):
    outcomes = [Outcome(1.0, Kind.EMBED, 1.0 + late, None, 2.0)]
    told = summary_of([Shooting(outcomes, [], cpu)], rate=1.0, seconds=2.0, warm_up=0.0, slo=Slo())
    assert told.client.saturated is saturated
