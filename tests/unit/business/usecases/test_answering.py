import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest
from business_svc.domain.access import Caller
from business_svc.domain.answer import AnswerEvent, Started, Text
from business_svc.domain.inference import (
    EmbedRequest,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    OutputDetail,
    Priority,
    Replica,
    ReplicaState,
    Sampling,
    ScoreInput,
    ScoreRequest,
    StopConditions,
    Timings,
)
from business_svc.domain.prompting import PromptRules
from business_svc.errors import Reason, SeamError, bad_field
from business_svc.usecases.answering import Answering, AnswerRules, whole_answer
from business_svc.usecases.calling import Call, context_of
from business_svc.usecases.embedding import Embedding
from business_svc.usecases.operations import Operations
from business_svc.usecases.predicting import Predicting, PredictRequest
from business_svc.usecases.scoring import Scoring
from support.fake_inference import CHAT, EMBED, FakeInference, vector_of

CALL = Call(Caller("acme", "k"), timeout=5.0, traceparent="00-a-b-01", tracestate="x=y")
HELLO = GenerateRequest("", (Message("user", "hello you"),))
SHORT = replace(HELLO, stop=StopConditions(max_output_tokens=2))


def answering(inference: FakeInference, rules: AnswerRules | None = None) -> Answering:
    clock = asyncio.get_running_loop().time
    return Answering(inference, rules or AnswerRules(PromptRules(), 10), clock, new_request_id=lambda: "r-1")


async def read(events: AsyncGenerator[AnswerEvent, None]) -> list[AnswerEvent]:
    async with aclosing(events):
        return [event async for event in events]


async def refusal(events: AsyncGenerator[AnswerEvent, None]) -> SeamError:
    with pytest.raises(SeamError) as caught:
        await read(events)
    return caught.value


async def test_an_answer_starts_with_who_answers_and_ends_with_why() -> None:
    inference = FakeInference()
    events = await read(answering(inference).chat(HELLO, CALL))
    assert events[0] == Started("r-1", "chat", 2, None, CHAT.notice)
    assert events[1:-1] == [Text("the "), Text("sky "), Text("is "), Text("blue")]
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.usage.output_token_count) == (FinishReason.STOP, 4)
    assert (last.timings.queue, last.timings.prefill, last.timings.decode) == (0.25, 0.5, 0.125)


async def test_the_total_is_what_the_servers_clock_saw() -> None:
    times = iter([100.0, 107.5])
    use_case = Answering(FakeInference(), AnswerRules(PromptRules(), 10), lambda: next(times), lambda: "r")
    # the fake keeps the loop's deadline; a clock of its own stands far from it
    events = await read(use_case.chat(HELLO, replace(CALL, timeout=None)))
    assert isinstance(events[-1], Finished)
    assert events[-1].timings.total == 7.5


async def test_caller_deadline_and_trace_go_with_the_request() -> None:
    inference = FakeInference()
    now = asyncio.get_running_loop().time()
    await read(answering(inference).chat(SHORT, CALL))
    (context,) = inference.contexts
    assert (context.tenant, context.traceparent, context.tracestate) == ("acme", "00-a-b-01", "x=y")
    assert context.priority is Priority.NORMAL
    assert context.deadline is not None
    assert 4.9 < context.deadline - now < 6


def test_no_call_outlives_the_servers_own_bound() -> None:
    assert context_of(replace(CALL, timeout=None), 100.0, 60.0).deadline == 160.0
    assert context_of(replace(CALL, timeout=90.0), 100.0, 60.0).deadline == 160.0
    assert context_of(replace(CALL, timeout=30.0), 100.0, 60.0).deadline == 130.0
    with pytest.raises(SeamError) as caught:
        context_of(replace(CALL, timeout=0.0), 100.0, 60.0)
    assert caught.value.reason is Reason.DEADLINE_EXPIRED


async def test_a_length_that_nobody_named_is_the_servers_default() -> None:
    inference = FakeInference()
    use_case = answering(inference, AnswerRules(PromptRules(), default_max_output_tokens=3))
    await read(use_case.chat(HELLO, CALL))
    await read(use_case.chat(SHORT, CALL))
    await read(use_case.chat(replace(HELLO, stop=StopConditions(min_output_tokens=4)), CALL))
    assert [asked.stop.max_output_tokens for asked in inference.asked] == [3, 2, 4]  # type: ignore[union-attr]


async def test_the_default_length_gives_way_to_a_long_prompt_and_a_named_one_does_not() -> None:
    inference = FakeInference()
    use_case = answering(inference, AnswerRules(PromptRules(), default_max_output_tokens=20))
    long = replace(HELLO, messages=(Message("user", "w " * 120),))
    events = await read(use_case.chat(long, CALL))
    assert isinstance(events[-1], Finished)
    assert [asked.stop.max_output_tokens for asked in inference.asked] == [20, None]  # type: ignore[union-attr]

    named = await refusal(use_case.chat(replace(long, stop=StopConditions(max_output_tokens=20)), CALL))
    assert named.reason is Reason.INPUT_TOO_LONG
    hopeless = await refusal(use_case.chat(replace(HELLO, messages=(Message("user", "w " * 130),)), CALL))
    assert (hopeless.reason, hopeless.violations[0].field) == (Reason.INPUT_TOO_LONG, "messages")


async def test_an_answer_that_has_begun_is_never_asked_for_twice() -> None:
    inference = FakeInference(failure=SeamError(Reason.INPUT_TOO_LONG, "late"), failing_after=1)
    error = await refusal(answering(inference).chat(HELLO, CALL))
    assert (error.message, len(inference.asked)) == ("late", 1)


async def test_bad_paths_do_not_count_the_servers_own_system_prompt() -> None:
    inference = FakeInference(failure=bad_field("work.prompt.chat.messages[2].content", "is bad"))
    use_case = answering(inference, AnswerRules(PromptRules(system_prompt="be kind"), 10))
    two = replace(HELLO, messages=(Message("user", "a"), Message("user", "b")))
    error = await refusal(use_case.chat(two, CALL))
    assert inference.asked[0].messages[0] == Message("system", "be kind")  # type: ignore[union-attr]
    assert (error.violations[0].field, error.message) == ("messages[1].content", "messages[1].content: is bad")


async def test_ids_are_told_only_when_asked_for_and_a_piece_without_text_when_it_tells_something() -> None:
    inference = FakeInference(words=["", "a"])
    assert [event for event in await read(answering(inference).chat(HELLO, CALL)) if isinstance(event, Text)] == [
        Text("a")
    ]
    with_ids = replace(HELLO, detail=OutputDetail(token_ids=True))
    pieces = [event for event in await read(answering(inference).chat(with_ids, CALL)) if isinstance(event, Text)]
    assert pieces == [Text("", token_ids=(1,)), Text("a", token_ids=(2,))]
    with_logprobs = replace(HELLO, detail=OutputDetail(logprobs=True))
    pieces = [event for event in await read(answering(inference).chat(with_logprobs, CALL)) if isinstance(event, Text)]
    assert [(piece.text, len(piece.logprobs), piece.token_ids) for piece in pieces] == [("", 1, ()), ("a", 1, ())]


async def test_the_seed_in_use_is_told() -> None:
    asked = replace(HELLO, sampling=Sampling(temperature=1.0, seed=42))
    (started, *_) = await read(answering(FakeInference()).chat(asked, CALL))
    assert isinstance(started, Started)
    assert started.seed == 42


async def test_closing_an_answer_stops_the_work() -> None:
    inference = FakeInference()
    events = answering(inference).chat(HELLO, CALL)
    await anext(events)
    await anext(events)
    assert inference.live == 1
    await events.aclose()
    assert (inference.live, len(inference.stopped)) == (0, 1)


async def test_a_bad_request_asks_nothing() -> None:
    inference = FakeInference()
    assert (await refusal(answering(inference).chat(replace(HELLO, messages=()), CALL))).reason is Reason.TEXT_EMPTY
    assert (await refusal(answering(inference).chat(replace(HELLO, model="nope"), CALL))).reason is (
        Reason.MODEL_NOT_FOUND
    )
    expired = await refusal(answering(inference).chat(HELLO, replace(CALL, timeout=-1.0)))
    assert expired.reason is Reason.DEADLINE_EXPIRED
    assert inference.asked == []


async def test_a_whole_answer_is_its_pieces_together() -> None:
    asked = replace(HELLO, detail=OutputDetail(logprobs=True, token_ids=True))
    whole = await whole_answer(answering(FakeInference()).chat(asked, CALL))
    assert (whole.text, whole.token_ids, len(whole.logprobs)) == ("the sky is blue", (1, 2, 3, 4), 4)
    assert whole.started.request_id == "r-1"
    assert whole.finished.reason is FinishReason.STOP


async def test_an_answer_whose_end_is_missing_is_a_fault() -> None:
    async def cut() -> AsyncGenerator[AnswerEvent, None]:
        yield Started("r", "chat", 1)

    with pytest.raises(SeamError) as caught:
        await whole_answer(cut())
    assert caught.value.reason is Reason.INTERNAL_FAULT


async def test_a_prediction_is_the_template_answered_greedily() -> None:
    inference = FakeInference()
    prompts = PromptRules("Say: {text}", system_prompt="be kind")
    predicting = Predicting(inference, answering(inference, AnswerRules(prompts, 10)), prompts)
    answer = await predicting.predict(PredictRequest("why", 2), CALL)
    assert answer.text == "the sky "
    (asked,) = inference.asked
    assert isinstance(asked, GenerateRequest)
    assert asked.messages == (Message("system", "be kind"), Message("user", "Say: why"))
    assert asked.sampling == Sampling()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("work.prompt.chat.messages[1].content", "text"),
        ("work.prompt.chat.messages", "text"),
        ("work.stop.max_output_tokens", "max_output_tokens"),
    ],
)
async def test_a_predictions_bad_fields_are_its_own(theirs: str, ours: str) -> None:
    inference = FakeInference(failure=bad_field(theirs, "is bad"))
    prompts = PromptRules(system_prompt="be kind")
    predicting = Predicting(inference, answering(inference, AnswerRules(prompts, 10)), prompts)
    with pytest.raises(SeamError) as caught:
        await predicting.predict(PredictRequest("why", 2), CALL)
    assert (caught.value.violations[0].field, caught.value.message) == (ours, f"{ours}: is bad")


async def test_a_prediction_of_nothing_is_refused_by_its_own_name() -> None:
    inference = FakeInference()
    prompts = PromptRules("Say: {text}")
    predicting = Predicting(inference, answering(inference), prompts)
    for request, field in ((PredictRequest(""), "text"), (PredictRequest("a", 0), "max_output_tokens")):
        with pytest.raises(SeamError) as caught:
            await predicting.predict(request, CALL)
        assert caught.value.violations[0].field == field
    assert inference.asked == []


async def test_embeddings_come_in_order_with_the_servers_total() -> None:
    inference = FakeInference()
    times = iter([100.0, 103.0])
    use_case = Embedding(inference, 1e9, lambda: next(times))
    answer = await use_case.embed(EmbedRequest("", ("a", "b")), replace(CALL, timeout=None))
    assert [embedding.values for embedding in answer.embeddings] == [vector_of("a", 8), vector_of("b", 8)]
    assert answer.timings == Timings(0.25, 0.5, 0.0, 3.0)
    assert inference.asked[0].model == "embed"


async def test_scores_and_embeddings_tell_bad_fields_as_the_callers_own() -> None:
    clock = asyncio.get_running_loop().time
    inference = FakeInference(failure=bad_field("work.inputs[0].text", "is bad"))
    with pytest.raises(SeamError) as caught:
        await Scoring(inference, 60.0, clock).score(ScoreRequest("", (ScoreInput("a"),)), CALL)
    assert caught.value.violations[0].field == "inputs[0].text"
    inference.failure = bad_field("work.texts[0]", "is bad")
    with pytest.raises(SeamError) as caught:
        await Embedding(inference, 60.0, clock).embed(EmbedRequest("", ("a",)), CALL)
    assert caught.value.violations[0].field == "texts[0]"


def test_models_come_by_name_page_by_page() -> None:
    operations = Operations(FakeInference(served=[EMBED, CHAT]), "1.0", lambda: 0.0)
    assert [model.name for model in operations.models()] == ["chat", "embed"]
    first = operations.page(1, "")
    assert ([model.name for model in first.models], first.next_name) == (["chat"], "embed")
    second = operations.page(1, first.next_name)
    assert ([model.name for model in second.models], second.next_name) == (["embed"], "")
    assert len(operations.page(0, "").models) == 2
    assert operations.model("embed") is EMBED
    with pytest.raises(SeamError) as caught:
        operations.model("nope")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


def test_ready_is_every_model_of_the_task_and_at_least_one() -> None:
    inference = FakeInference(served=[CHAT, replace(EMBED, ready=False)])
    operations = Operations(inference, "1.0", lambda: 0.0)
    assert not operations.ready()
    assert operations.ready(CHAT.task)
    assert not operations.ready(EMBED.task)
    inference.served = []
    assert not operations.ready()


def test_status_tells_version_uptime_and_replicas() -> None:
    times = iter([10.0, 12.5])
    replica = Replica("a:1", "a", ReplicaState.READY, 2, ())
    operations = Operations(FakeInference(known_replicas=[replica]), "1.0", lambda: next(times))
    status = operations.status()
    assert (status.version, status.uptime, status.replicas) == ("1.0", 2.5, (replica,))
