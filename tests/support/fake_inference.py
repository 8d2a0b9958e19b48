"""An Inference that keeps the port's rules, and can be held, broken and counted."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from business_svc.domain.inference import (
    Accepted,
    Context,
    Embedding,
    Embeddings,
    EmbedRequest,
    Finished,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    LabelScore,
    Model,
    PositionLogprobs,
    Replica,
    ReplicaState,
    Score,
    ScoreRequest,
    Scores,
    Task,
    Timings,
    TokenLogprob,
    Tokens,
    Truncation,
    Usage,
)
from business_svc.errors import Reason, SeamError, bad_field

CHAT = Model("chat", Task.GENERATE, "fake:chat", 128, 1, 2_000, notice="a fake: it says what it is told to")
EMBED = Model("embed", Task.EMBED, "fake:embed", 16, 4, 200, dimension_count=8)
SCORE = Model("score", Task.SCORE, "fake:score", 16, 4, 200, labels=("bad", "good"))
READY_REPLICA = Replica("fake:1", "fake-1", ReplicaState.READY, 0, ())


@dataclass
class FakeInference:
    """Answers with `words`, a token each; counts an input token a word. Holds every request at `gate` (before its
    first result) and generations at `token_gate` (after `open_tokens` tokens); raises `failure` after `failing_after`
    tokens. `asked` has every request, `contexts` its context, `stopped` those that ended early, by their caller."""

    words: Sequence[str] = ("the ", "sky ", "is ", "blue")
    served: Sequence[Model] = (CHAT, EMBED, SCORE)
    known_replicas: Sequence[Replica] = (READY_REPLICA,)
    failure: Exception | None = None
    failing_after: int = 0
    open_tokens: int | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    token_gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[GenerateRequest | EmbedRequest | ScoreRequest] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    stopped: list[object] = field(default_factory=list)
    live: int = 0
    tokens_given: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.gate.set()

    # --- what a test waits for ---

    async def until_live(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.live == count)

    async def until_asked(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.asked) >= count)

    async def until_given(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.tokens_given >= count)

    # --- the port ---

    def models(self) -> Sequence[Model]:
        return tuple(self.served)

    def replicas(self) -> Sequence[Replica]:
        return tuple(self.known_replicas)

    async def generate(self, request: GenerateRequest, context: Context) -> AsyncGenerator[GenerationEvent, None]:
        await self._begin(request, context)
        ended = False
        try:
            async with asyncio.timeout_at(context.deadline):
                await self.gate.wait()
            self._fail_when_due(0)
            prompt = sum(len(message.content.split()) for message in request.messages)
            limit = request.stop.max_output_tokens
            self._refuse_over_context(prompt, limit)
            yield Accepted(prompt, seed=request.sampling.seed if request.sampling.temperature else None)
            count = 0
            for count, word in enumerate(self.words[: limit or len(self.words)], start=1):
                await self._wait_for_token(count, context)
                self._fail_when_due(count - 1)
                await self._change(given=1)
                yield Tokens((count,), word, _logprobs(request, count, word))
            cut = limit is not None and limit < len(self.words)
            reason = FinishReason.LENGTH if cut else FinishReason.STOP
            ended = True
            yield Finished(reason, Usage(prompt, count), Timings(0.25, 0.5, 0.125))
        except TimeoutError:
            ended = True
            raise SeamError(Reason.DEADLINE_EXPIRED, "the deadline passed") from None
        except SeamError:
            ended = True
            raise
        finally:
            if not ended:
                self.stopped.append(request)
            self.live -= 1
            await self._tell()

    async def embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        model = self._model(request.model, Task.EMBED)
        counts, truncated = await self._encoded(request, request.texts, request.truncation, model, context)
        size = request.dimension_count or model.dimension_count
        vectors = (
            Embedding(vector_of(text, size), count, cut)
            for text, count, cut in zip(request.texts, counts, truncated, strict=True)
        )
        return Embeddings(tuple(vectors), Usage(sum(counts)), Timings(0.25, 0.5))

    async def score(self, request: ScoreRequest, context: Context) -> Scores:
        model = self._model(request.model, Task.SCORE)
        texts = [f"{scored.text} {scored.text_pair or ''}" for scored in request.inputs]
        counts, truncated = await self._encoded(request, texts, request.truncation, model, context)
        labels = tuple(LabelScore(label, 0.25 + 0.5 * index) for index, label in enumerate(model.labels))
        scores = (Score(labels, count, cut) for count, cut in zip(counts, truncated, strict=True))
        return Scores(tuple(scores), Usage(sum(counts)), Timings(0.25, 0.5))

    # --- its rules ---

    def _model(self, name: str, task: Task) -> Model:
        for model in self.served:
            if model.name == name and model.task is task:
                return model
        raise bad_field("model", f"no replica serves {name!r}", Reason.NO_REPLICA)

    async def _begin(self, request: GenerateRequest | EmbedRequest | ScoreRequest, context: Context) -> None:
        self.asked.append(request)
        self.contexts.append(context)
        self.live += 1
        await self._tell()

    async def _encoded(
        self,
        request: EmbedRequest | ScoreRequest,
        texts: Sequence[str],
        truncation: Truncation,
        model: Model,
        context: Context,
    ) -> tuple[list[int], list[bool]]:
        await self._begin(request, context)
        try:
            async with asyncio.timeout_at(context.deadline):
                await self.gate.wait()
            self._fail_when_due(0)
            counts = [len(text.split()) for text in texts]
            for index, count in enumerate(counts):
                if count > model.max_context_tokens and truncation is Truncation.REFUSE:
                    limit = f"must have at most {model.max_context_tokens} tokens, had {count}"
                    raise bad_field(f"work.texts[{index}]", limit, Reason.INPUT_TOO_LONG)
            most = model.max_context_tokens
            return [min(count, most) for count in counts], [count > most for count in counts]
        except TimeoutError:
            raise SeamError(Reason.DEADLINE_EXPIRED, "the deadline passed") from None
        except asyncio.CancelledError:
            self.stopped.append(request)
            raise
        finally:
            self.live -= 1
            await self._tell()

    async def _wait_for_token(self, count: int, context: Context) -> None:
        if self.open_tokens is not None and count > self.open_tokens:
            async with asyncio.timeout_at(context.deadline):
                await self.token_gate.wait()

    def _fail_when_due(self, count: int) -> None:
        if self.failure is not None and count >= self.failing_after:
            raise self.failure

    def _refuse_over_context(self, prompt: int, limit: int | None) -> None:
        most = CHAT.max_context_tokens
        if prompt + (limit or 1) > most:
            said = f"prompt and output must fit {most} tokens, were {prompt} and {limit or 1}"
            raise bad_field("work.prompt.chat.messages", said, Reason.INPUT_TOO_LONG)

    async def _change(self, given: int) -> None:
        self.tokens_given += given
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def vector_of(text: str, size: int) -> tuple[float, ...]:
    """The same text, the same vector; exactly representable as float32."""
    return tuple(byte / 256 for byte in hashlib.sha256(text.encode()).digest()[:size])


def _logprobs(request: GenerateRequest, token_id: int, word: str) -> tuple[PositionLogprobs, ...]:
    if not request.detail.logprobs:
        return ()
    chosen = TokenLogprob(token_id, -0.5, word)
    others = (TokenLogprob(token_id + number, -0.5 - number, f"other{number}") for number in range(1, 21))
    top = (chosen, *others)[: request.detail.top_logprob_count]
    return (PositionLogprobs(chosen, top),)
