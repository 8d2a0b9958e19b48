"""Which tokens each answer's format allows next, computed while the model computes.

Where an answer stands is known as soon as its token is drawn, and what may follow is needed only when the next logits
are there: in between a thread of this room fills the masks, with the interpreter's lock let go. A mask is a row of
int32 words, one bit a token, so a device needs one small copy of it a step.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from inference_svc.engine.runner import Row, SampledToken
from inference_svc.models.transfer import sent
from inference_svc.requests import Generation

if TYPE_CHECKING:
    from llguidance import LLExecutor

    from inference_svc.models.grammar import Form, Grammar

_FILL_THREADS = 2  # of the library, beside the one of this room
_MOST_IN_WORDS = 160  # characters of what the library says went wrong


@dataclass(slots=True, eq=False)
class _Answer:
    """`mask_row` is its row of the masks. `is_complete` and `can_go_on` are true of what is in that row: whether an end
    is allowed there, and any other token."""

    form: "Form"
    mask_row: int
    ends: "EndBits"
    is_complete: bool = False
    can_go_on: bool = True
    fault: str = ""

    @property
    def is_stuck(self) -> bool:
        return not (self.can_go_on or self.is_complete)


@dataclass(frozen=True)
class EndBits:
    """The ids that end an answer, and the bits that they have in a mask beside that of the library's own end."""

    token_ids: frozenset[int]
    own_end: int

    @cached_property
    def allowed(self) -> tuple[np.ndarray, np.ndarray]:
        return _bits_of(self.token_ids)

    @cached_property
    def all(self) -> tuple[np.ndarray, np.ndarray]:
        return _bits_of(self.token_ids | {self.own_end})


class FormatMasks:
    """The answers that have a format, by slot. Costs nothing while there are none."""

    def __init__(self, slot_count: int, device: torch.device) -> None:
        self._device = device
        self._row_count = 2 * slot_count  # an answer that is over keeps its row until no thread writes there
        self._answers: dict[int, _Answer] = {}
        self._has_format = np.zeros(slot_count, dtype=np.bool_)
        self._free: list[int] = list(range(self._row_count))
        self._left: list[int] = []
        self._filling: list[Future[None]] = []
        self._masks = np.zeros((0, 0), dtype=np.int32)
        self._vocabulary_size = 0

    def open(self, slot: int, generation: Generation) -> None:
        if generation.grammar is None:
            return
        grammar: Grammar = generation.grammar  # type: ignore[assignment]  # this model's rooms made it
        if not len(self._masks):
            self._vocabulary_size = grammar.vocabulary_size
            self._masks = np.zeros((self._row_count, grammar.vocabulary_size // 32 + 1), dtype=np.int32)
        if not self._free:
            self._wait()
        from inference_svc.models.grammar import Form

        ends = EndBits(generation.end_token_ids, grammar.vocabulary_size)
        answer = _Answer(Form(grammar), self._free.pop(), ends)
        self._answers[slot] = answer
        self._has_format[slot] = True
        self._filling.append(self._thread.submit(self._begin, answer, generation.resumed_ids))

    def close(self, slot: int) -> None:
        answer = self._answers.pop(slot, None)
        if answer is not None:
            self._has_format[slot] = False
            self._left.append(answer.mask_row)

    def concern(self, slots: np.ndarray) -> np.ndarray:
        """Which of these slots have a format: `(slots,) bool`."""
        found: np.ndarray = self._has_format[slots]
        return found

    def apply(self, logits: torch.Tensor, slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Take out of `logits` `(rows, vocabulary)`, in place, what the format of each row's slot forbids. Gives which
        rows may be kept from ending: `(rows,) bool`, those where anything else is allowed."""
        may_go_on = np.ones(len(slots), dtype=np.bool_)
        rows = np.flatnonzero(self._has_format[slots])
        if not len(rows):
            return may_go_on
        self._wait()
        answers = [self._at(int(slots[row]), int(positions[row])) for row in rows]
        may_go_on[rows] = [answer.can_go_on for answer in answers]
        stuck = self._tensor([answer.is_stuck for answer in answers])  # drawn from as if free: the draw is not told
        forbidden = self._forbidden([answer.mask_row for answer in answers]).masked_fill_(stuck[:, None], False)
        if len(rows) == len(logits):
            logits.masked_fill_(forbidden, -torch.inf)
        else:
            index = self._tensor(rows)
            logits.index_copy_(0, index, logits[index].masked_fill_(forbidden, -torch.inf))
        return may_go_on

    def note_drawn(self, rows: Sequence[Row], drawn: list[SampledToken]) -> list[SampledToken]:
        """What was drawn, with what it means for the answers' formats; their next masks are begun."""
        going_on = []
        for index, (row, token) in enumerate(zip(rows, drawn, strict=True)):
            answer = self._answers.get(row.slot)
            if answer is None or not token.finite:
                continue
            if answer.is_stuck:
                drawn[index] = replace(token, fault=self._fault(answer))
            elif token.token_id in answer.ends.token_ids:
                drawn[index] = replace(token, completes=True)
            elif not answer.form.take([token.token_id]):
                drawn[index] = replace(token, fault=self._fault(answer))
            elif answer.form.is_over:
                drawn[index] = replace(token, completes=True)
            else:
                going_on.append(answer)
        if going_on:
            self._filling.append(self._thread.submit(self._fill, going_on))
        return drawn

    # --- inside: the answers --------------------------------------------------------------------------------------

    def _at(self, slot: int, position: int) -> _Answer:
        """The answer before its output token number `position`: a step that failed may come again."""
        answer = self._answers[slot]
        if answer.form.taken_count != position:
            answer.form.rewind(position)
            self._fill([answer])
        return answer

    def _fault(self, answer: _Answer) -> str:
        after = f"after {answer.form.taken_count} tokens"
        said = answer.fault or answer.form.fault
        if said:
            return f"became too complex {after}: {said[:_MOST_IN_WORDS]}"
        return f"allows no token of this model {after}"

    # --- inside: the masks ----------------------------------------------------------------------------------------

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="formats")  # one: an answer's masks are filled in order

    @cached_property
    def _library_threads(self) -> "LLExecutor":
        from llguidance import LLExecutor

        return LLExecutor(_FILL_THREADS)

    def _wait(self) -> None:
        """Until no thread touches an answer or a mask. Each filling ends by the library's bounds on work."""
        filling, self._filling = self._filling, []
        for each in filling:
            each.result()
        self._free += self._left
        self._left.clear()

    def _begin(self, answer: _Answer, resumed_ids: Sequence[int]) -> None:
        answer.form.take(resumed_ids)
        self._fill([answer])

    def _fill(self, answers: Sequence[_Answer]) -> None:
        try:
            self._refill(answers)
        except Exception as error:  # never an old mask for a new token: these answers fail, and no others
            for answer in answers:
                answer.is_complete = answer.can_go_on = False
                answer.fault = f"{type(error).__name__}: {error}"

    def _refill(self, answers: Sequence[_Answer]) -> None:
        self._compute(answers)
        again = [answer for answer in answers if answer.form.fault and answer.form.go_on_alone()]
        if again:
            self._compute(again)
        for answer in answers:
            mask = self._masks[answer.mask_row]
            if answer.form.fault:
                answer.is_complete = answer.can_go_on = False
                continue
            words, bits = answer.ends.all
            mask[words] &= ~bits
            answer.can_go_on = bool(mask.any())
            answer.is_complete = answer.form.is_complete and bool(answer.ends.token_ids)
            if answer.is_complete:
                words, bits = answer.ends.allowed
                mask[words] |= bits

    def _compute(self, answers: Sequence[_Answer]) -> None:
        self._library_threads.unsafe_compute_mask_ptr(
            [(answer.form.matcher, answer.mask_row) for answer in answers],
            self._masks.ctypes.data,
            self._masks.shape[1] * 4,
            len(self._masks),
        )

    def _forbidden(self, mask_rows: list[int]) -> torch.Tensor:
        """`(rows, vocabulary) bool`."""
        masks = ~self._masks[mask_rows]
        if self._device.type == "cpu":  # faster than torch's shifts
            bits = np.unpackbits(masks.view(np.uint8), axis=1, count=self._vocabulary_size, bitorder="little")
            return torch.from_numpy(bits.view(np.bool_))
        return unpacked(sent(masks, self._device), self._vocabulary_size)

    def _tensor(self, values: object) -> torch.Tensor:
        return sent(np.asarray(values), self._device)


def unpacked(masks: torch.Tensor, vocabulary_size: int) -> torch.Tensor:
    """Bits of `(rows, words) int32` as `(rows, vocabulary_size) bool`, on their device."""
    shifts = torch.arange(32, dtype=torch.int32, device=masks.device)
    bits = (masks[:, :, None] >> shifts) & 1
    return bits.view(len(masks), -1)[:, :vocabulary_size].bool()


def _bits_of(token_ids: frozenset[int]) -> tuple[np.ndarray, np.ndarray]:
    """Words of a mask, each once, and the bits that the ids have there."""
    words: dict[int, int] = {}
    for token_id in token_ids:
        words[token_id // 32] = words.get(token_id // 32, 0) | 1 << (token_id % 32)
    bits = np.array(list(words.values()), dtype=np.uint32).view(np.int32)
    return np.array(list(words), dtype=np.int64), bits
