"""Answers a conversation."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from business_svc.domain.answer import AnswerEvent, Citation, Started, Text
from business_svc.domain.checking import check_generate, served_model
from business_svc.domain.fields import without_first_messages
from business_svc.domain.inference import (
    Accepted,
    Context,
    Finished,
    GenerateRequest,
    GenerationEvent,
    PositionLogprobs,
    Task,
    Tokens,
)
from business_svc.domain.prompting import PromptRules
from business_svc.errors import Reason, SeamError
from business_svc.observing import Operation, WorkWatch
from business_svc.ports import Inference
from business_svc.usecases.calling import Call, Clock, context_of, in_callers_words, with_total

DEFAULT_MODEL = "chat"


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """`default_max_output_tokens` holds where the caller names no maximum; `max_seconds` bounds every answer."""

    prompts: PromptRules
    default_max_output_tokens: int = 256
    max_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    started: Started
    text: str
    logprobs: tuple[PositionLogprobs, ...]
    token_ids: tuple[int, ...]
    citations: tuple[Citation, ...]
    finished: Finished


class Answering:
    """Rules around a conversation: the server's prompt, its default length, its checks."""

    def __init__(
        self, inference: Inference, rules: AnswerRules, clock: Clock, new_request_id: Callable[[], str]
    ) -> None:
        self._inference = inference
        self._rules = rules
        self._clock = clock
        self._new_request_id = new_request_id

    def allowed(self, call: Call) -> float:
        """Seconds that an answer to the call may take."""
        return call.allowed(self._rules.max_seconds)

    async def chat(self, request: GenerateRequest, call: Call) -> AsyncGenerator[AnswerEvent, None]:
        """Started, then Text (any number), then Finished. Raises SeamError. Consume under `aclosing`."""
        name = request.model or DEFAULT_MODEL
        with call.work(Operation.CHAT, name) as work:
            work.asked([message.content for message in request.messages])
            async with aclosing(self._answer(request, name, call, work)) as events:
                async for event in events:
                    match event:
                        case Started():
                            work.started(event.request_id)
                        case Text():
                            work.said(event.text)
                        case Finished():
                            work.finished(event.usage, event.timings, event.reason)
                        case Citation():
                            pass
                    yield event

    async def _answer(
        self, request: GenerateRequest, name: str, call: Call, work: WorkWatch
    ) -> AsyncGenerator[AnswerEvent, None]:
        begun = self._clock()
        context = context_of(call, begun, self._rules.max_seconds, work)
        model = served_model(self._inference.models(), self._inference.replicas(), name, Task.GENERATE)
        check_generate(request, model)
        messages = self._rules.prompts.conversation(request.messages)
        asked = replace(request, model=name, messages=messages)
        added = without_first_messages(len(messages) - len(request.messages))
        request_id = self._new_request_id()
        notice = model.notice if model else ""
        with in_callers_words(added):
            async with aclosing(self._generate(asked, context)) as events:
                async for event in events:
                    match event:
                        case Accepted(input_token_count, seed):
                            yield Started(request_id, name, input_token_count, seed, notice)
                        case Tokens(ids, text, logprobs):
                            told_ids = ids if request.detail.token_ids else ()
                            if text or logprobs or told_ids:
                                yield Text(text, logprobs, told_ids)
                        case Finished(reason, usage, timings, stop_string):
                            total = self._clock() - begun
                            yield Finished(reason, usage, with_total(timings, total), stop_string)

    async def _generate(self, request: GenerateRequest, context: Context) -> AsyncGenerator[GenerationEvent, None]:
        """The server's default length gives way to a long prompt: where both do not fit the context together, the
        answer may take what the prompt leaves, which is less than the default. A length that the caller named does not.
        """
        first = request
        if request.stop.max_output_tokens is None:
            first = replace(request, stop=replace(request.stop, max_output_tokens=self._default_length(request)))
        accepted = False
        try:
            async with aclosing(self._inference.generate(first, context)) as events:
                async for event in events:
                    accepted = True
                    yield event
                return
        except SeamError as error:
            if accepted or first is request or error.reason is not Reason.INPUT_TOO_LONG:
                raise
        async with aclosing(self._inference.generate(request, context)) as events:
            async for event in events:
                yield event

    def _default_length(self, request: GenerateRequest) -> int:
        return max(self._rules.default_max_output_tokens, request.stop.min_output_tokens or 0)


async def whole_answer(events: AsyncGenerator[AnswerEvent, None]) -> Answer:
    """Reads an answer to its end, and closes it."""
    started: Started | None = None
    finished: Finished | None = None
    texts: list[Text] = []
    citations: list[Citation] = []
    async with aclosing(events):
        async for event in events:
            match event:
                case Started():
                    started = event
                case Text():
                    texts.append(event)
                case Citation():
                    citations.append(event)
                case Finished():
                    finished = event
    if started is None or finished is None:
        raise SeamError(Reason.INTERNAL_FAULT, "the answer ended without its end being told")
    return Answer(
        started=started,
        text="".join(piece.text for piece in texts),
        logprobs=tuple(position for piece in texts for position in piece.logprobs),
        token_ids=tuple(token_id for piece in texts for token_id in piece.token_ids),
        citations=tuple(citations),
        finished=finished,
    )
