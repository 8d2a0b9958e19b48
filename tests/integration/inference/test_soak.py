"""Half a minute of the hour that `python -m load.soak` takes."""

from collections.abc import Iterator

import pytest
import torch
from load.soak import soak


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_random_mixed_work_stays_exact_and_loses_nothing() -> None:
    outcome = await soak(25)
    assert outcome.faults == []
    assert outcome.lost == []
    assert outcome.seen["exact: chat"] > 0
    assert abs(sum(outcome.idle.values()) - outcome.counted_seconds) < 0.1, "every moment has one cause"
