"""Few numbers of rows, and little that nobody reads."""

from collections.abc import Callable

import pytest
from inference_svc.models.row_counts import decode_filler_count, filler_count


@pytest.mark.parametrize(("count_of", "most"), [(filler_count, 40), (decode_filler_count, 65)])
def test_numbers_of_rows_are_few(count_of: Callable[[int], int], most: int) -> None:
    assert len({count + count_of(count) for count in range(1, 513)}) <= most


def test_filler_is_a_small_share() -> None:
    shares = [decode_filler_count(count) / count for count in range(2, 2049)]
    assert max(shares) < 0.12
    assert sum(shares[:512]) / 512 < 0.03


def test_no_product_has_one_row_and_few_have_no_filler() -> None:
    assert [decode_filler_count(count) for count in range(17)] == [0, 1, *[0] * 15]
