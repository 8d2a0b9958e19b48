"""A model that needs no weights: fast, deterministic, and strict about the rules that a runner may rely on.

The next token is a pure function of (all ids so far, seed, output index), so a resumed or recomputed sequence must
give what the undisturbed one gave. Tokens are bytes. Bytes below 8 in a prompt or text choose a failure, so that a
test may ask for one from any distance: see POISON, REFUSED, NAN, LOST.
"""

import hashlib
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt
from inference_svc.engine.runner import DeviceLost, OutOfDeviceMemory, Row, SampledToken
from inference_svc.errors import InvalidField
from inference_svc.model import LoadedModel
from inference_svc.models.grammar import Form, Grammar, Grammars
from inference_svc.models.token_bytes import TokenBytes
from inference_svc.requests import EncodedInput, Generation, Message, ModelInfo, ModelLimits, OutputFormat, Task

POISON = 1  # a step, or encoder pass, with this id in it raises
REFUSED = 2  # open() raises for a prompt with this id
NAN = 3  # logits or vectors behind this id are not finite
LOST = 4  # a step with this id in it loses the device
END = 256
SEPARATOR = 257

LETTERS = "abcdefghijklmnopqrstuvwxyz "
PATIENCE = 30.0  # seconds that a gate holds the model thread before the test counts as broken


class Gate:
    """Lets a runner's steps through one by one, as many as allowed; starts open or shut."""

    def __init__(self, *, shut: bool = False) -> None:
        self._changed = threading.Condition()
        self._allowed: int | None = 0 if shut else None
        self._waiting = 0

    def allow(self, steps: int) -> None:
        with self._changed:
            self._allowed = (self._allowed or 0) + steps
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._allowed = None
            self._changed.notify_all()

    def shut(self) -> None:
        with self._changed:
            self._allowed = 0

    def wait_until_blocked(self, timeout: float = PATIENCE) -> None:
        """Returns once a step stands before the shut gate."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting > 0 and self._allowed == 0, timeout):
                raise TimeoutError("no step came to the gate")

    def pass_through(self) -> None:
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                if not self._changed.wait_for(lambda: self._allowed is None or self._allowed > 0, PATIENCE):
                    raise TimeoutError("the gate stayed shut")
                if self._allowed is not None:
                    self._allowed -= 1
            finally:
                self._waiting -= 1


class EchoTokenizer:
    """Bytes as ids, and an end and a separator token that show as nothing."""

    vocabulary_size = 258
    end_token_ids = frozenset({END})
    has_chat_template = True

    def encode_chat(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        if any(message.role == "refused" for message in messages):
            raise InvalidField.of_field("prompt.chat.messages", "the template knows no role 'refused'")
        text = "".join(f"{message.role}: {message.content}\n" for message in messages)
        return list((text + ("assistant: " if add_generation_prompt else "")).encode())

    def encode_text(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_pair(self, text: str, text_pair: str | None) -> tuple[list[int], list[int] | None]:
        first = list(text.encode())
        if text_pair is None:
            return first, None
        second = list(text_pair.encode())
        return [*first, SEPARATOR, *second], [0] * (len(first) + 1) + [1] * len(second)

    def truncate_pair(self, text: str, text_pair: str | None, limit: int) -> tuple[list[int], list[int] | None]:
        ids, types = self.encode_pair(text, text_pair)
        return ids[:limit], types[:limit] if types is not None else None

    def prompt_for(self, prompt_name: str) -> str:
        prompts = {"": "", "query": "query: ", "document": "document: "}
        if prompt_name not in prompts:
            raise InvalidField.of_field("embed.prompt_name", f"the model has no prompt {prompt_name!r}")
        return prompts[prompt_name]

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(i for i in token_ids if i < 256).decode("utf-8", errors="replace")

    def token_text(self, token_id: int) -> str:
        return {END: "<end>", SEPARATOR: "<separator>"}.get(token_id) or self.decode([token_id])


class EchoGrammars:
    """Real grammars over the echo's bytes, made when the first is asked for."""

    def compiled(self, output_format: OutputFormat) -> Grammar:
        return self._grammars.compiled(output_format)

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(TokenBytes([*(bytes([byte]) for byte in range(256)), None, None]))


class _Slot:
    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.form = None if generation.grammar is None else Form(cast(Grammar, generation.grammar))
        if self.form is not None:
            self.form.take(generation.resumed_ids)
        self.known = [*generation.prompt_ids, *generation.resumed_ids]  # and what was sampled since
        self.cached = 0  # of `known`, what the cache holds


class EchoRunner:
    """A GenerationRunner. `misuse` lists every broken rule; a test of the engine ends by asserting that it is empty."""

    def __init__(
        self,
        *,
        slot_count: int = 8,
        max_context_tokens: int = 512,
        cache_token_count: int | None = None,
        alphabet: str = LETTERS,
        end_one_in: int = 0,
        gate: Gate | None = None,
        memory_tokens: int | None = None,
        share_prefixes: bool = False,
        loses_device: bool = True,
    ) -> None:
        self.slot_count = slot_count
        self.max_context_tokens = max_context_tokens
        self.cache_token_count = cache_token_count or slot_count * max_context_tokens
        self.gate = gate or Gate()
        self.memory_tokens = memory_tokens
        self.misuse: list[str] = []
        self.step_sizes: list[int] = []  # tokens of every step that was computed
        self.computed_tokens = 0
        self.most_slots = 0
        self.opened = 0
        self.thread_names: set[str] = set()
        self._characters = [character.encode() for character in alphabet]
        self._end_one_in = end_one_in
        self._share_prefixes = share_prefixes
        self._loses_device = loses_device
        self._seen: set[tuple[int, ...]] = set()
        self._slots: dict[int, _Slot] = {}

    @property
    def open_slots(self) -> frozenset[int]:
        return frozenset(self._slots)

    @property
    def step_count(self) -> int:
        return len(self.step_sizes)

    def expected(self, generation: Generation, count: int) -> list[int]:
        """The output ids, resumed ones first, that `generation` has after `count` tokens, ended or not."""
        ids = [*generation.prompt_ids, *generation.resumed_ids]
        begin = len(generation.prompt_ids)
        while len(ids) - begin < count:
            ids.append(self._next(ids, begin, generation))
        return ids[begin:]

    def open(self, slot: int, generation: Generation) -> int | None:
        self.thread_names.add(threading.current_thread().name)
        self._rule(0 <= slot < self.slot_count, f"open of slot {slot}, of {self.slot_count}")
        self._rule(slot not in self._slots, f"open of slot {slot}, which is taken")
        if REFUSED in generation.prompt_ids:
            raise ValueError("this prompt is refused at open")
        state = _Slot(generation)
        self._slots[slot] = state
        self.opened += 1
        self.most_slots = max(self.most_slots, len(self._slots))
        return self.look_again(slot)

    def look_again(self, slot: int) -> int:
        self._rule(slot in self._slots, f"a look at slot {slot}, which is closed")
        state = self._slots[slot]
        if self._share_prefixes:
            more = range(state.cached + 1, len(state.known))
            state.cached = max((n for n in more if tuple(state.known[:n]) in self._seen), default=state.cached)
        return state.cached

    def step(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        self.thread_names.add(threading.current_thread().name)
        self.gate.pass_through()
        self._check(rows)
        tokens = sum(len(row.token_ids) for row in rows)
        if self.memory_tokens is not None and tokens > self.memory_tokens:
            raise OutOfDeviceMemory(f"{tokens} tokens")
        if self._loses_device and any(LOST in row.token_ids for row in rows):
            raise DeviceLost("the device fell off the bus")
        if any(POISON in row.token_ids for row in rows):
            raise RuntimeError("a poisoned row")
        self.step_sizes.append(tokens)
        self.computed_tokens += tokens
        return [self._compute(row) for row in rows]

    def close(self, slot: int) -> None:
        self._rule(slot in self._slots, f"close of slot {slot}, which is free")
        self._slots.pop(slot, None)

    def _compute(self, row: Row) -> SampledToken | None:
        state = self._slots[row.slot]
        state.cached = row.start + len(row.token_ids)
        if self._share_prefixes:
            self._seen.add(tuple(state.known[: state.cached]))
        if not row.samples:
            return None
        begin = len(state.generation.prompt_ids)
        token = self._next(state.known, begin, state.generation, state.form)
        if state.form is not None:
            state.form.take([token])
        logprob = -1.0 - (token % 7) / 8
        wanted = state.generation.detail
        first = row.output_index == len(state.generation.resumed_ids)
        finite = NAN not in state.known[:begin]
        state.known.append(token)
        top = tuple(((token + k) % 256, logprob - k) for k in range(wanted.top_logprob_count))
        prompt = tuple((-2.0, ()) for _ in range(begin - 1)) if wanted.prompt_logprobs and first else ()
        completes = state.form is not None and state.form.is_over
        return SampledToken(token, finite, logprob if wanted.logprobs else 0.0, top, prompt, completes)

    def _next(self, ids: Sequence[int], begin: int, generation: Generation, form: Form | None = None) -> int:
        settings = f"{len(ids) - begin}:{generation.sampling.seed}:{generation.sampling.temperature}:"
        digest = hashlib.blake2b(settings.encode() + np.asarray(ids, np.int32).tobytes(), digest_size=8).digest()
        draw = int.from_bytes(digest, "little")
        if form is not None:
            return _allowed(form, generation, draw)
        started = self._unfinished(ids[begin:])
        if not started and self._end_one_in and draw % self._end_one_in == 0 and generation.end_token_ids:
            return min(generation.end_token_ids)
        choices = [c for c in self._characters if c.startswith(started) and len(c) > len(started)]
        return choices[draw % len(choices)][len(started)]

    def _unfinished(self, ids: Sequence[int]) -> bytes:
        """The bytes at the end that begin a character of the alphabet and do not end it."""
        tail = bytes(i for i in ids[-4:] if i < 256)
        for length in range(min(3, len(tail)), 0, -1):
            piece = tail[-length:]
            if any(c.startswith(piece) and len(c) > length for c in self._characters if len(c) > 1):
                return piece
        return b""

    def _check(self, rows: Sequence[Row]) -> None:
        self._rule(len(rows) > 0, "a step of no rows")
        self._rule(len({row.slot for row in rows}) == len(rows), "a slot twice in one step")
        for row in rows:
            self._rule(row.slot in self._slots, f"a step on slot {row.slot}, which is closed")
            state = self._slots[row.slot]
            end = row.start + len(row.token_ids)
            self._rule(len(row.token_ids) > 0, "a row of no tokens")
            self._rule(row.start == state.cached, f"start {row.start} where the cache holds {state.cached}")
            self._rule(end <= self.max_context_tokens, f"{end} tokens in a slot of {self.max_context_tokens}")
            self._rule(list(row.token_ids) == state.known[row.start : end], f"other ids than slot {row.slot} has")
            self._rule(row.samples == (end == len(state.known)), "samples, if and only if all ids are there")
            position = len(state.known) - len(state.generation.prompt_ids)
            self._rule(not row.samples or row.output_index == position, f"output index {row.output_index}")
        held = sum(state.cached for state in self._slots.values()) + sum(len(row.token_ids) for row in rows)
        self._rule(held <= self.cache_token_count, f"{held} tokens in a cache of {self.cache_token_count}")

    def _rule(self, kept: bool, what: str) -> None:
        if not kept:
            self.misuse.append(what)
            raise AssertionError(what)


def _allowed(form: Form, generation: Generation, draw: int) -> int:
    """A byte that the format allows, or an end where it is complete, chosen by `draw`."""
    mask = np.frombuffer(form.matcher.compute_bitmask(), np.uint8)
    allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little", count=END)).tolist()
    if form.is_complete:
        allowed += sorted(generation.end_token_ids)
    chosen: int = allowed[draw % len(allowed)]
    return chosen


class EchoEncoder:
    """An EncoderRunner: each input's row is a pure function of its ids, with numbers in [-1, 1]."""

    def __init__(
        self,
        *,
        width: int = 8,
        gate: Gate | None = None,
        memory_tokens: int | None = None,
        loses_device: bool = True,
    ) -> None:
        self.width = width
        self._loses_device = loses_device
        self.gate = gate or Gate()
        self.memory_tokens = memory_tokens
        self.passes: list[tuple[EncodedInput, ...]] = []  # what was computed, pass by pass
        self.thread_names: set[str] = set()

    @property
    def computed_tokens(self) -> int:
        return sum(len(each.token_ids) for inputs in self.passes for each in inputs)

    def expected(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        digest = hashlib.blake2b(np.asarray(token_ids, np.int32).tobytes(), digest_size=64).digest()
        raw = np.frombuffer(digest * (self.width // 64 + 1), np.uint8)[: self.width]
        return (raw.astype(np.float32) / 127.5 - 1.0).astype(np.float32)

    def encode(self, inputs: Sequence[EncodedInput]) -> npt.NDArray[np.float32]:
        self.thread_names.add(threading.current_thread().name)
        self.gate.pass_through()
        if not inputs:
            raise AssertionError("a pass of no inputs")
        if self.memory_tokens is not None and sum(len(each.token_ids) for each in inputs) > self.memory_tokens:
            raise OutOfDeviceMemory("pass too big")
        if self._loses_device and any(LOST in each.token_ids for each in inputs):
            raise DeviceLost("the device fell off the bus")
        if any(POISON in each.token_ids for each in inputs):
            raise RuntimeError("a poisoned input")
        self.passes.append(tuple(inputs))
        rows = np.stack([self.expected(each.token_ids) for each in inputs])
        rows[[NAN in each.token_ids for each in inputs]] = np.nan
        return rows


def echo_model(
    name: str = "chat",
    task: Task = Task.GENERATE,
    *,
    runner: EchoRunner | EchoEncoder | None = None,
    step_token_budget: int = 64,
    max_output_tokens: int | None = None,
    max_texts: int = 64,
    max_text_bytes: int = 65536,
    labels: Sequence[str] = ("no", "yes"),
) -> LoadedModel:
    """A model ready to be served, as the model rooms would hand it over."""
    if runner is None:
        width = len(labels) if task is Task.SCORE else 8
        runner = EchoRunner() if task is Task.GENERATE else EchoEncoder(width=width)
    context = runner.max_context_tokens if isinstance(runner, EchoRunner) else 512
    info = ModelInfo(
        name=name,
        task=task,
        source="echo",
        architecture="Echo",
        limits=ModelLimits(context, max_output_tokens or context, max_texts, max_text_bytes),
        device="cpu",
        dtype="float32",
        vocabulary_size=EchoTokenizer.vocabulary_size,
        dimension_count=runner.width if isinstance(runner, EchoEncoder) and task is Task.EMBED else 0,
        labels=tuple(labels) if task is Task.SCORE else (),
    )
    grammars = EchoGrammars() if task is Task.GENERATE else None
    return LoadedModel(info, EchoTokenizer(), runner, step_token_budget, grammars)
