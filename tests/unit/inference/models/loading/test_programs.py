"""Pieces of work that are noted, and run one behind the other by several threads."""

import pytest
import torch
from inference_svc.models.elementwise import Scale, add, normalise
from inference_svc.models.programs import Program
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
