"""What tests of compiled decoder layers stand on."""

from collections.abc import Iterator

import pytest
import torch
from inference_svc.models import prepacked
from inference_svc.models.panel_linear import PanelLinear


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Linear layers are panels wherever they can be, on any processor; a test may set the number of threads."""
    monkeypatch.setattr(prepacked, "kinds_here", lambda: (PanelLinear,))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
