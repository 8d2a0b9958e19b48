"""Who goes next among those who wait.

Order: class (the request's priority, raised by waiting), then tenants by their weighted share of tokens, then the
caller's rank (a deadline, a fair turn), then arrival. Waiting raises by one class every `aging_steps`; past the
highest priority a wait is OVERDUE, and those go first of all and in order of arrival only. So whoever waits is passed
over for a bounded number of steps, whatever else arrives.
"""

import heapq
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from inference_svc.requests import Priority

OVERDUE = max(Priority) + 1
_SLACK = 64  # dead entries kept in the heaps before they are swept
_DEBTORS = 1024  # tenants that do not wait and are remembered for what was computed for them

Waiter = TypeVar("Waiter")


@dataclass(slots=True, eq=False)
class Entry(Generic[Waiter]):
    """A place in the line. `wait_class` and `since` (a step's number) change as it ages."""

    waiter: Waiter
    key: int
    tenant: str
    rank: float
    order: int
    wait_class: int
    since: int


@dataclass(slots=True, eq=False)
class _Tenant:
    """`turn` is the tenant's virtual time: tokens computed for it over its weight."""

    turn: float = 0.0
    waiting: int = 0


@dataclass(slots=True, eq=False)
class _Class(Generic[Waiter]):
    heaps: dict[str, list[tuple[float, int, int, Entry[Waiter]]]] = field(default_factory=dict)
    by_age: deque[tuple[int, Entry[Waiter]]] = field(default_factory=deque)


class WaitingLine(Generic[Waiter]):
    def __init__(self, weights: Mapping[str, float], aging_steps: int) -> None:
        self._weights = dict(weights)
        self._aging_steps = aging_steps
        self._classes: list[_Class[Waiter]] = [_Class() for _ in range(OVERDUE + 1)]
        self._entries: dict[int, Entry[Waiter]] = {}
        self._tenants: dict[str, _Tenant] = {}
        self._now = 0.0  # virtual time: the turn of whoever was served last
        self._dead = 0
        self._filings = 0
        self._forget_above = _SLACK

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: int) -> bool:
        return key in self._entries

    def push(
        self,
        waiter: Waiter,
        *,
        key: int,
        priority: int,
        tenant: str,
        step: int,
        rank: float,
        order: int,
    ) -> None:
        """Join the line. `order` is of arrival and differs from everyone else's; `step` is now."""
        self.put_back(Entry(waiter, key, tenant, rank, order, priority, step))

    def put_back(self, entry: Entry[Waiter]) -> None:
        """Take up again the place that the entry was popped from."""
        self._entries[entry.key] = entry
        tenant = self._tenants.setdefault(entry.tenant, _Tenant(self._now))
        if not tenant.waiting:
            tenant.turn = max(tenant.turn, self._now)
        tenant.waiting += 1
        self._file(entry)

    def remove(self, key: int) -> None:
        """Unknown keys are ignored."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._tenants[entry.tenant].waiting -= 1
            self._dead += 1
            if self._dead > len(self._entries) + _SLACK:
                self._sweep()

    def head(self) -> Entry[Waiter] | None:
        """Whoever goes next; stays in the line."""
        for number in range(OVERDUE, -1, -1):
            tops = [
                (self._tenants[top.tenant].turn if number < OVERDUE else 0.0, top.rank, top.order, top)
                for name in list(self._classes[number].heaps)
                if (top := self._top(number, name)) is not None
            ]
            if tops:
                return min(tops)[-1]
        return None

    def pop(self) -> Entry[Waiter] | None:
        entry = self.head()
        if entry is not None:
            self.remove(entry.key)
            self._now = max(self._now, self._tenants[entry.tenant].turn)
        return entry

    def charge(self, tenant: str, tokens: int) -> None:
        """Tokens are computed for the tenant: its next turn comes later. While nobody waits nobody owes."""
        if not self._entries:
            self._tenants.clear()
            return
        known = self._tenants.setdefault(tenant, _Tenant(self._now))
        known.turn += tokens / self._weights.get(tenant, 1.0)
        if len(self._tenants) > self._forget_above:
            self._forget_tenants()

    def age(self, step: int) -> None:
        """Raise those who have waited long, as of this step."""
        for number in range(OVERDUE):
            by_age = self._classes[number].by_age
            while by_age and by_age[0][0] <= step - self._aging_steps:
                since, entry = by_age.popleft()
                if self._is_filed(entry, number) and entry.since == since:
                    entry.wait_class, entry.since = number + 1, step
                    self._dead += 1
                    self._file(entry)

    def _file(self, entry: Entry[Waiter]) -> None:
        place = self._classes[entry.wait_class]
        self._filings += 1  # tells apart the same entry filed twice, of which at most one still counts
        if entry.wait_class == OVERDUE:
            heapq.heappush(place.heaps.setdefault("", []), (0.0, entry.order, self._filings, entry))
        else:
            heapq.heappush(place.heaps.setdefault(entry.tenant, []), (entry.rank, entry.order, self._filings, entry))
            place.by_age.append((entry.since, entry))

    def _is_filed(self, entry: Entry[Waiter], number: int) -> bool:
        return self._entries.get(entry.key) is entry and entry.wait_class == number

    def _top(self, number: int, name: str) -> Entry[Waiter] | None:
        heaps = self._classes[number].heaps
        heap = heaps[name]
        while heap and not self._is_filed(heap[0][-1], number):
            heapq.heappop(heap)
            self._dead -= 1
        if not heap:
            del heaps[name]
            return None
        return heap[0][-1]

    def _sweep(self) -> None:
        """File everyone anew, without the dead."""
        self._classes = [_Class() for _ in range(OVERDUE + 1)]
        self._dead = 0
        for entry in sorted(self._entries.values(), key=lambda entry: entry.since):
            self._file(entry)

    def _forget_tenants(self) -> None:
        """A tenant that neither waits nor owes is as good as a new one; of many that owe the smallest debts go too."""
        waiting = {name: tenant for name, tenant in self._tenants.items() if tenant.waiting}
        owing = [each for each in self._tenants.items() if not each[1].waiting and each[1].turn > self._now]
        most = heapq.nlargest(_DEBTORS, owing, key=lambda each: each[1].turn)
        self._tenants = waiting | dict(most)
        self._forget_above = 2 * len(self._tenants) + _SLACK
