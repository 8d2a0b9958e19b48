"""The whole system on its real models, started by its own command, once for each topology."""

from collections.abc import Iterator

import pytest
from support.seam_up import SeamUp, seam_up

TOPOLOGIES = {
    "monolith": ("--topology", "monolith"),
    "split": ("--topology", "split"),
    "split of two": ("--topology", "split", "--replicas", "2"),
    "hybrid": ("--topology", "hybrid", "--replicas", "1"),
}


@pytest.fixture(scope="module", params=list(TOPOLOGIES))
def system(request: pytest.FixtureRequest) -> Iterator[SeamUp]:
    with seam_up(*TOPOLOGIES[request.param]) as started:
        yield started
