"""Nobody starves: whoever waits is through within a number of steps that follows from what came before him, whatever
comes after him."""

from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.engine.waiting_line import OVERDUE
from inference_svc.requests import Finished, Priority
from support.outlets import generation
from support.scheduling import Harness, of

PROMPT, OUTPUT = 6, 4  # tokens, at most


@settings(max_examples=25)
@given(
    priority=st.sampled_from(Priority),
    slots=st.integers(1, 3),
    budget=st.integers(2, 8),
    bound=st.one_of(st.none(), st.integers(1, 4)),
    aging=st.integers(1, 6),
    tight=st.booleans(),
    before=st.lists(st.sampled_from(Priority), max_size=4),
    tenants=st.sampled_from(["a", "abc"]),
    whims=st.randoms(use_true_random=False),
)
def test_a_wait_is_bounded_in_steps_for_every_priority(
    priority, slots, budget, bound, aging, tight, before, tenants, whims
) -> None:
    """While he ages, anyone may go before him. Once he is overdue, only those who came before him do, and each of them
    holds a slot for no more steps than its tokens would take if every step served one sequence alone."""
    cache = (PROMPT + OUTPUT) * slots if tight else None
    house = Harness(slots=slots, budget=budget, prompt_bound=bound, aging=aging, cache=cache, context=16)
    keys = count()

    def submit(of_priority: Priority, deadline: float | None = None) -> int:
        key = next(keys)
        context = of(of_priority, tenant=whims.choice(tenants), deadline=deadline)
        work = generation([97] * whims.randint(1, PROMPT), count=whims.randint(1, OUTPUT), seed=key, context=context)
        house.submit(key, work)
        return key

    def flood() -> None:
        while sum(house.scheduler.facts().waiting.sequences) < 3 + slots:
            submit(Priority.INTERACTIVE, deadline=1.0 + whims.random())  # never reached: the clock stands

    for each in before:
        submit(each)
    house.turn(whims.randint(0, 8), flood)
    earlier = len(house.scheduler.keys)
    waiting = submit(priority)
    most = aging * (OVERDUE - priority) + (earlier + 1) * slots * 2 * (PROMPT + OUTPUT)
    for _ in range(most):
        house.turn(before=flood)
        if house.end(waiting) is not None:
            break
    assert isinstance(house.end(waiting), Finished), f"not through after {most} steps"
