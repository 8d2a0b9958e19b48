"""Which inputs an encoder pass computes together, and laws of it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.engine.costs import StepCosts
from inference_svc.engine.encoder_former import EncoderFormer, EncoderLimits
from inference_svc.errors import DeadlineExpired, NumericalFault, StepFailed
from inference_svc.requests import Context, EncodedInput, Encoding, Priority
from support.outlets import encoding


class House:
    """Turns of a former; a row is the first id of its input."""

    def __init__(self, budget: int = 16, aging: int = 1000) -> None:
        self.costs = StepCosts(budget)
        self.former = EncoderFormer(EncoderLimits(budget, aging), self.costs)
        self.results: dict[int, dict[int, float]] = {}
        self.ended: set[int] = set()
        self.errors: dict[int, Exception] = {}
        self.passes: list[tuple[EncodedInput, ...]] = []
        self.now = 0.0

    def submit(self, key: int, work: Encoding) -> None:
        self.former.submit(key, work, self.now)

    def turn(self, bad: dict[int, Exception | float] | None = None) -> bool:
        for key, failed in self.former.expire(self.now):
            self._failed(key, failed.error)
        planned = self.former.next_pass(self.now)
        if planned is None:
            return False
        self.passes.append(planned.inputs)
        rows = []
        for each in planned.inputs:
            row = (bad or {}).get(each.token_ids[0], float(each.token_ids[0]))
            rows.append(row if isinstance(row, Exception) else np.array([row], np.float32))
        computed, failed = self.former.commit(planned, rows)
        for part in computed:
            assert part.key not in self.ended
            assert part.key not in self.errors
            for given_input, row in zip(part.inputs, part.rows, strict=True):
                known = self.results.setdefault(part.key, {})
                assert given_input.index not in known, "a result twice"
                known[given_input.index] = float(row[0])
            if part.ended:
                self.ended.add(part.key)
        for key, failure in failed:
            self._failed(key, failure.error)
        return True

    def run(self) -> None:
        while self.turn():
            pass
        assert self.former.is_idle

    def _failed(self, key: int, error: Exception) -> None:
        assert key not in self.ended
        assert key not in self.errors
        self.errors[key] = error


def tokens(planned: tuple[EncodedInput, ...]) -> int:
    return sum(len(each.token_ids) for each in planned)


def of(priority: Priority = Priority.NORMAL, **more) -> Context:
    return Context(priority=priority, **more)


def test_passes_are_filled_up_to_the_budget_with_inputs_of_any_request():
    house = House(budget=10)
    for key in range(20):
        house.submit(key, encoding(chr(97 + key) * (key % 5 + 1)))
    house.run()
    assert len(house.ended) == 20
    assert all(tokens(each) <= 10 for each in house.passes)
    assert sum(map(tokens, house.passes)) == 60
    assert len(house.passes) <= 7


def test_an_input_over_the_budget_is_a_pass_of_its_own():
    house = House(budget=4)
    house.submit(1, encoding("ab", "c" * 9, "de"))
    house.run()
    assert sorted(tokens(each) for each in house.passes) == [4, 9]


def test_equal_inputs_that_wait_together_are_computed_once_for_everyone():
    house = House(budget=100)
    house.submit(1, encoding("same", "same", "one"))
    house.submit(2, encoding("same", "two"))
    house.run()
    assert sum(map(len, house.passes)) == 3
    assert house.ended == {1, 2}
    assert house.results[1][0] == house.results[1][1] == house.results[2][0]


def test_equal_ids_of_other_types_are_not_equal():
    house = House()
    work = encoding("a", "b")
    pair = tuple(EncodedInput(index, (5, 6), types) for index, types in enumerate([(0, 0), (0, 1)]))
    house.submit(1, Encoding("embed", Context(), pair, work.work))
    house.run()
    assert sum(map(len, house.passes)) == 2


def test_who_waits_with_a_cancelled_request_for_the_same_still_gets_it():
    house = House()
    house.submit(1, encoding("same"))
    house.submit(2, encoding("same"))
    assert house.former.remove(1)
    house.run()
    assert house.ended == {2}


def test_an_equal_input_of_higher_priority_brings_the_result_forward():
    house = House(budget=4)
    house.submit(1, encoding("aaaa", "bbbb", "cccc"))
    house.submit(2, encoding("cccc", context=of(Priority.INTERACTIVE)))
    house.turn()
    assert house.ended == {2}
    assert set(house.results[1]) == {2}


def test_one_request_of_many_inputs_does_not_keep_others_waiting():
    house = House(budget=8)
    house.submit(1, encoding(*(f"{n:04d}" for n in range(100))))
    house.turn()
    house.submit(2, encoding("late"))
    house.turn()
    house.turn()
    assert 2 in house.ended
    assert 1 not in house.ended


def test_a_close_deadline_goes_before_a_fair_turn():
    house = House(budget=4)
    house.costs.stepped(4, step_seconds=4.0, turn_seconds=4.0)
    house.submit(1, encoding("aaaa", "bbbb", "cccc"))
    house.submit(2, encoding("dddd", "eeee", "ffff", context=of(deadline=13.0)))
    for _ in range(4):
        house.turn()
    assert 2 in house.ended
    assert 1 not in house.ended


def test_what_expires_is_not_computed():
    house = House(budget=4)
    house.submit(1, encoding("aaaa", "bbbb", context=of(deadline=5.0)))
    house.turn()
    house.now = 6.0
    assert not house.turn()
    assert isinstance(house.errors[1], DeadlineExpired)
    assert house.former.is_idle


def test_an_input_that_fails_fails_the_requests_that_have_it_and_no_other():
    house = House(budget=100)
    house.submit(1, encoding("bad", "a"))
    house.submit(2, encoding("b", "bad"))
    house.submit(3, encoding("c"))
    house.turn({ord("b"): StepFailed("poison")})
    assert set(house.errors) == {1, 2}
    assert house.ended == {3}
    assert house.former.is_idle


def test_a_row_that_is_not_finite_fails_its_request():
    house = House()
    house.submit(1, encoding("a"))
    house.submit(2, encoding("b"))
    house.turn({ord("a"): float("nan")})
    assert isinstance(house.errors[1], NumericalFault)
    assert house.ended == {2}


requests = st.lists(
    st.tuples(
        st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=6),
        st.sampled_from(Priority),
        st.sampled_from(["", "t"]),
        st.booleans(),
    ),
    max_size=12,
)


@given(requests, st.integers(1, 20), st.integers(1, 5))
@settings(max_examples=200)
def test_every_input_comes_back_exactly_once_in_bounded_passes(asked, budget, aging):
    house = House(budget, aging)
    cancelled = set()
    for key, (texts, priority, tenant, cancel) in enumerate(asked):
        house.submit(key, encoding(*texts, context=of(priority, tenant=tenant)))
        if cancel:
            house.turn()
            if house.former.remove(key):
                cancelled.add(key)
    house.run()
    for key, (texts, *_) in enumerate(asked):
        if key not in cancelled:
            assert house.results[key] == {index: float(ord(text[0])) for index, text in enumerate(texts)}
    assert all(tokens(each) <= budget or len(each) == 1 for each in house.passes)
    assert all(len({(i.token_ids, i.type_ids) for i in each}) == len(each) for each in house.passes)
    assert sum(house.former.waiting.tokens) == 0 == sum(house.former.waiting.sequences)


def test_low_priority_is_computed_in_bounded_time_under_an_endless_stream():
    house = House(budget=4, aging=10)
    house.submit(0, encoding("zzzz", context=of(Priority.BATCH)))
    for key in range(1, 60):
        house.submit(key, encoding(f"{key:04d}", context=of(Priority.INTERACTIVE)))
        house.submit(1000 + key, encoding(f"x{key:03d}", context=of(Priority.INTERACTIVE)))
        house.turn()
    assert 0 in house.ended
