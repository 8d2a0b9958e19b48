"""The laws of credits, for any window, any arrival and any reader."""

import pytest
from business_svc.link.credits import Credits, CreditsOverdrawn
from hypothesis import given
from hypothesis import strategies as st


@given(window=st.integers(1, 100), choices=st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=200))
def test_credits_are_never_negative_and_nobody_waits_for_the_other(
    window: int, choices: list[tuple[bool, int]]
) -> None:
    credits_ = Credits(window)
    peer_may_send = window
    for sends, count in choices:
        if sends:
            count = min(count, peer_may_send)
            peer_may_send -= count
            credits_.received(count)
        else:
            peer_may_send += credits_.taken(min(count, credits_.unread))
        assert credits_.outstanding == peer_may_send
        assert credits_.outstanding >= 0
        assert 0 <= credits_.unread <= window
        assert credits_.outstanding + credits_.unread <= window
        if credits_.unread == 0:
            assert peer_may_send > 0


def test_a_peer_that_sends_more_than_it_was_granted_is_found_out() -> None:
    credits_ = Credits(4)
    credits_.received(4)
    with pytest.raises(CreditsOverdrawn):
        credits_.received(1)


def test_grants_go_out_half_a_window_at_a_time() -> None:
    credits_ = Credits(8)
    credits_.received(8)
    assert [credits_.taken(1) for _ in range(8)] == [0, 0, 0, 4, 0, 0, 0, 4]
