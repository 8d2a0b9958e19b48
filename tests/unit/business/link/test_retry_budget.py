"""The law of the retry budget, for any order of requests and retries."""

from business_svc.link.retry_budget import RetryBudget
from hypothesis import given
from hypothesis import strategies as st


@given(steps=st.lists(st.tuples(st.booleans(), st.floats(0, 0.4)), max_size=300))
def test_retries_never_exceed_the_share_or_the_floor_in_any_window(steps: list[tuple[bool, float]]) -> None:
    budget = RetryBudget(share=0.1, floor=3, window=10.0, buckets=20)
    now, requests, retries = 0.0, [], []
    for is_request, pause in steps:
        now += pause
        if is_request:
            budget.request(now)
            requests.append(now)
        elif budget.allows(now):
            retries.append(now)
            recent = sum(one > now - 10.0 for one in retries)
            known = sum(one > now - 11.0 for one in requests)
            assert recent <= max(3, 0.1 * known)


def test_a_quiet_time_may_retry_a_few_and_no_more() -> None:
    budget = RetryBudget(floor=3)
    assert [budget.allows(0.0) for _ in range(5)] == [True, True, True, False, False]


def test_what_was_spent_comes_back_with_time() -> None:
    budget = RetryBudget(floor=1, window=10.0)
    assert budget.allows(0.0)
    assert not budget.allows(5.0)
    assert budget.allows(20.0)


def test_many_requests_allow_a_tenth_of_them_to_retry() -> None:
    budget = RetryBudget(share=0.1, floor=3)
    for _ in range(100):
        budget.request(1.0)
    assert sum(budget.allows(1.0) for _ in range(50)) == 10
