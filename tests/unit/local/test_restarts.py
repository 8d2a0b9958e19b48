"""A replica that keeps dying is started ever more rarely; one that served well begins anew."""

from hypothesis import given
from hypothesis import strategies as st
from seam_local.restarts import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, STEADY_SECONDS, Backoff


def test_the_delay_doubles_up_to_the_longest():
    backoff = Backoff()
    delays = [backoff.delay_after(lived=0.0) for _ in range(9)]
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


@given(st.lists(st.floats(0, 1000)))
def test_the_delay_is_bounded_and_a_steady_life_brings_the_first_one_back(lives):
    backoff = Backoff()
    for lived in lives:
        delay = backoff.delay_after(lived)
        assert FIRST_DELAY_SECONDS <= delay <= LONGEST_DELAY_SECONDS
        if lived >= STEADY_SECONDS:
            assert delay == FIRST_DELAY_SECONDS
