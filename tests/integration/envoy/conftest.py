"""Two business servers over one replica, and Envoy before them; tests that hurt something start their own."""

from collections.abc import Iterator

import pytest
from support.edge import Business, Envoy, Workshop, workshop


@pytest.fixture
def own(tmp_path) -> Iterator[Workshop]:
    with workshop(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Workshop]:
    with workshop(tmp_path_factory.mktemp("edge")) as made:
        yield made


@pytest.fixture(scope="module")
def replica(shared: Workshop) -> str:
    return shared.replica()


@pytest.fixture(scope="module")
def pair(shared: Workshop, replica: str) -> tuple[Business, Business]:
    return shared.business(replica), shared.business(replica)


@pytest.fixture(scope="module")
def envoy(shared: Workshop, pair: tuple[Business, Business]) -> Envoy:
    return shared.envoy(*pair)
