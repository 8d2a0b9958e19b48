"""A silent peer is found; a busy self is not mistaken for one."""

from business_svc.link.heartbeat import Silence, patience
from hypothesis import given
from hypothesis import strategies as st


def test_a_peer_that_says_nothing_for_the_limit_is_taken_for_dead() -> None:
    silence = Silence(tick=0.1, limit=2.0)
    assert [silence.waited(0.1) for _ in range(21)].index(True) in (19, 20)


def test_a_loop_that_was_busy_for_long_counts_as_one_tick() -> None:
    silence = Silence(tick=0.1, limit=2.0)
    for _ in range(15):
        assert not silence.waited(5.0)


@given(st.lists(st.floats(0.1, 10.0), max_size=200))
def test_a_peer_heard_now_and_then_is_never_taken_for_dead(late: list[float]) -> None:
    silence = Silence(tick=0.1, limit=2.0)
    for number, seconds in enumerate(late):
        if number % 10 == 0:
            silence.heard()
        assert not silence.waited(seconds)


def test_a_peer_that_told_that_it_beats_seldom_is_borne_for_three_beats() -> None:
    assert patience(2.0, []) == 2.0
    assert patience(2.0, ["models-changed", "heartbeat-ms=500"]) == 2.0
    assert patience(2.0, ["heartbeat-ms=60000"]) == 180.0
    assert patience(2.0, ["heartbeat-ms=-5", "heartbeat-ms=", "heartbeat-ms=9999999", "heartbeat-ms=1e9"]) == 2.0
