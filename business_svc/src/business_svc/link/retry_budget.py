"""How many refused requests may try again elsewhere: few enough that retries never make an overload worse."""

from collections import deque


class RetryBudget:
    """A share of the requests of the last `window` seconds, and a floor so that quiet times may retry too.

    Law: within any window, retries allowed <= max(floor, share * requests).
    """

    def __init__(self, *, share: float = 0.1, floor: int = 3, window: float = 10.0, buckets: int = 20) -> None:
        self._share = share
        self._floor = floor
        self._width = window / buckets
        self._buckets: deque[list[int]] = deque(maxlen=buckets + 1)  # [bucket number, requests, retries]
        self._kept = buckets

    def request(self, now: float) -> None:
        """A new request came in (not a retry)."""
        self._bucket(now)[1] += 1

    def allows(self, now: float) -> bool:
        """Whether one more retry may go now; if so it is counted."""
        bucket = self._bucket(now)
        requests = sum(one[1] for one in self._buckets)
        retries = sum(one[2] for one in self._buckets)
        if retries + 1 > max(self._floor, self._share * requests):
            return False
        bucket[2] += 1
        return True

    def _bucket(self, now: float) -> list[int]:
        number = int(now // self._width)
        while self._buckets and self._buckets[0][0] < number - self._kept:
            self._buckets.popleft()
        if not self._buckets or self._buckets[-1][0] < number:
            self._buckets.append([number, 0, 0])
        return self._buckets[-1]
