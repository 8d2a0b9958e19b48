"""How far a generation runs ahead of a reader that promised to take more."""

from hypothesis import given
from hypothesis import strategies as st
from inference_svc.wire.allowance import Allowance, window_for

ACTIONS = st.lists(st.one_of(st.tuples(st.just("grant"), st.integers(1, 2**32)), st.just(("write",))), max_size=60)


@given(st.one_of(st.none(), st.integers(0, 50), st.just(2**32 - 1)), st.integers(1, 40), ACTIONS, st.data())
def test_no_more_than_a_window_is_ahead_and_a_reader_that_has_taken_all_gets_what_it_granted(
    credits, window, actions, data
):
    allowance = Allowance(credits, window)
    handed, written, granted = allowance.hand_over(), 0, credits
    for action in actions:
        match action:
            case ("grant", more):
                granted = None if granted is None else granted + more
                handed += allowance.granted(more)
            case _ if handed > written:
                part = data.draw(st.integers(1, handed - written))
                written += part
                handed += allowance.written(part)
        assert 0 <= handed - written <= window
        assert granted is None or handed <= granted
        if handed == written:
            assert granted is not None
            assert handed == granted


def test_tokens_with_alternatives_have_a_smaller_window():
    assert window_for(0) > window_for(5) > window_for(20) > 0
