"""Pieces of work that are noted, and run one behind the other by several threads."""

from typing import Any

import pytest
import torch
from inference_svc.models import programs
from inference_svc.models.elementwise import Scale, add, normalise
from inference_svc.models.programs import Program
from inference_svc.models.torch_threads import Work
from torch.nn.functional import rms_norm


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_pieces_run_in_their_order_and_not_before(threads: int) -> None:
    """Each reads what all threads wrote in the one before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rows = torch.randn(700, 512)
    scale = Scale(torch.ones(512), 1e-6)
    expected = rows
    for _ in range(20):
        expected = expected + rms_norm(expected, (512,), eps=1e-6)
    found, normed, program = rows.clone(), torch.empty_like(rows), Program()
    with program.noting():
        for _ in range(20):
            normalise(found.data_ptr(), len(rows), scale, normed.data_ptr())
            add(found.data_ptr(), normed.data_ptr(), rows.numel())
    assert torch.equal(found, rows)
    program.run()
    torch.set_num_threads(before)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    again = found.clone()
    program.run()
    assert torch.equal(found, again)


def test_a_thread_that_comes_late_passes_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """One alone goes through all pieces without it, and it changes nothing any more."""
    rows, program, found = torch.ones(64), Program(), []
    with program.noting():
        for _ in range(3):
            add(rows.data_ptr(), rows.data_ptr(), 64)

    def one_after_the_other(work: Work, order: Any, _: int) -> None:
        for _ in range(2):
            work(order)
            found.append(rows.clone())

    monkeypatch.setattr(programs, "run", one_after_the_other)
    program.run()
    assert [each.unique().tolist() for each in found] == [[8.0], [8.0]]


def test_what_is_dropped_never_runs() -> None:
    rows, program = torch.ones(64), Program()
    with program.noting():
        add(rows.data_ptr(), rows.data_ptr(), 64)
    program.drop()
    program.run()
    assert torch.equal(rows, torch.ones(64))


def test_a_failure_while_noting_ends_the_noting() -> None:
    rows, program = torch.ones(64), Program()
    with pytest.raises(ZeroDivisionError), program.noting():
        raise ZeroDivisionError
    add(rows.data_ptr(), rows.data_ptr(), 64)
    assert torch.equal(rows, torch.full((64,), 2.0))
