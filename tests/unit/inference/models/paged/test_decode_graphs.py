"""Recorded decode steps: which size is taken, what fills it up, and that nothing but the buffers tells of a step."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.engine.runner import Row
from inference_svc.models.block_pool import BlockPool
from inference_svc.models.block_tables import BlockTables
from inference_svc.models.decode_graphs import CallAgain, CannotRecord, DecodeGraphs, Repeat, batch_sizes
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.paged_plan import plan_paged
from inference_svc.models.paged_steps import PagedSettings
from inference_svc.models.step_buffers import StepBuffers
from support.driving import Driver, generation
from support.generation_models import build_model

torch.set_num_threads(1)

_SIZE, _SLOTS, _CONTEXT = 4, 20, 40
_CPU = torch.device("cpu")


@given(st.integers(1, 300), st.data())
def test_the_next_size_computes_at_most_seven_rows_for_nothing(most: int, data: st.DataObject) -> None:
    sizes = batch_sizes(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == most
    count = data.draw(st.integers(1, most))
    assert next(size for size in sizes if size >= count) - count <= 7


class Recording:
    """Remembers what was recorded, and how often each was repeated."""

    def __init__(self) -> None:
        self.recorded = 0
        self.repeated: list[int] = []

    def record(self, compute: Repeat) -> Repeat:
        compute()
        number = self.recorded
        self.recorded += 1

        def repeat() -> None:
            self.repeated.append(number)
            compute()

        return repeat


def _graphs(recorder: Recording, seen: list[StepBuffers], tables: BlockTables) -> DecodeGraphs:
    def compute(buffers: StepBuffers, logits: torch.Tensor) -> None:
        """Logits that name token, position and place, in the order that is wanted."""
        step = buffers.device
        seen.append(buffers)
        logits.copy_(torch.stack([step.token_ids, step.positions, step.places], 1)[step.wanted])

    graphs = DecodeGraphs(
        recorder,
        compute,
        slot_count=_SLOTS,
        table_width=tables.rows.shape[1],
        scratch=tables.scratch,
        block_tokens=_SIZE,
        device=_CPU,
    )
    list(graphs.record(3))
    return graphs


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, _CONTEXT - 1), st.integers(1, 99)), min_size=1, max_size=_SLOTS), st.data())
def test_a_repeated_step_is_told_of_its_rows_and_padding_writes_where_nobody_reads(
    lengths: list[tuple[int, int]], data: st.DataObject
) -> None:
    tables = BlockTables(BlockPool(_SLOTS * _CONTEXT // _SIZE, _SIZE), _SLOTS, _CONTEXT)
    recorder, seen = Recording(), []
    graphs = _graphs(recorder, seen, tables)
    for _ in range(2):  # the second step finds the buffers as the first left them
        part = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True, min_size=1))
        rows = []
        for slot in part:
            start, token = lengths[slot]
            tables.reach(slot, start + 1)
            rows.append(Row(slot, start, [token], True, 0))
        plan = plan_paged(rows, tables)
        wanted = [end - 1 for end in plan.row_ends]
        logits = graphs.logits_of(plan, wanted)
        assert logits is not None
        assert logits.long().tolist() == [
            [token, start, int(tables.rows[slot, start // _SIZE]) * _SIZE + start % _SIZE]
            for slot, (start, token) in ((slot, lengths[slot]) for slot in part)
        ]
        host = seen[-1].host
        assert batch_sizes(_SLOTS)[-1 - recorder.repeated[-1]] == seen[-1].shape.rows, "the largest is recorded first"
        assert host.key_counts.tolist() == [lengths[slot][0] + 1 for slot in part] + [1] * (len(host.table) - len(part))
        assert (host.places[len(part) :] // _SIZE == tables.scratch).all()
        for row, slot in enumerate(part):
            blocks = lengths[slot][0] // _SIZE + 1
            assert host.table[row, :blocks].tolist() == tables.rows[slot, :blocks].tolist()
        assert (host.table[len(part) :] == tables.scratch).all()
        assert host.query_ends[:-1].tolist() == list(range(len(host.table) + 1))
        assert host.key_ends[:-1].tolist() == [0, *np.cumsum(host.key_counts)]


def test_what_is_not_single_tokens_that_all_sample_is_not_repeated() -> None:
    tables = BlockTables(BlockPool(100, _SIZE), _SLOTS, _CONTEXT)
    recorder = Recording()
    graphs = _graphs(recorder, [], tables)
    for slot in range(2):
        tables.reach(slot, 9)
    chunk, single = Row(0, 0, [1, 2], True, 0), Row(1, 3, [1], True, 0)
    assert graphs.logits_of(plan_paged([chunk, single], tables), [2, 0]) is None
    assert graphs.logits_of(plan_paged([single], tables), []) is None
    assert recorder.repeated == []


class Refusing:
    def record(self, compute: Repeat) -> Repeat:
        raise CannotRecord("this device repeats nothing")


def test_a_model_whose_steps_cannot_be_recorded_is_served_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    asked = {f"r{index}": generation([5 + index, 9, 7], 5) for index in range(3)}
    answers = []
    for recorder in (Refusing(), CallAgain(), None):
        paged = PagedSettings(256, recorder=recorder)
        runner = PackedGenerationRunner(build_model("llama"), slot_count=4, max_context_tokens=64, paged=paged)
        list(runner.warm_up())
        answers.append({name: each.output_ids for name, each in Driver(runner).run(asked).items()})
    assert answers[0] == answers[1] == answers[2]
    assert "this device repeats nothing" in caplog.text
