"""Contract messages and the words inside say the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference_svc.catalogue import CatalogueEntry
from inference_svc.errors import DeadlineExpired, InvalidField, QueueFull, SeamError, TextEmpty
from inference_svc.requests import (
    Accepted,
    ChatPrompt,
    Choice,
    Context,
    EmbedWork,
    Failed,
    Finished,
    FinishReason,
    GenerateWork,
    JsonSchema,
    Message,
    ModelInfo,
    ModelLimits,
    ModelLoad,
    ModelState,
    OutputDetail,
    PositionLogprobs,
    Priority,
    Regex,
    Request,
    Sampling,
    Score,
    ScoreActivation,
    ScoreInput,
    Scores,
    ScoreWork,
    StopConditions,
    Task,
    TextPrompt,
    Timings,
    TokenLogprob,
    TokenPrompt,
    Tokens,
    Truncation,
    Usage,
    Vector,
    Vectors,
)
from inference_svc.wire.inference_wire import (
    read_context,
    read_embed_work,
    read_generate_work,
    read_score_work,
    read_submit,
    write_embed_response,
    write_events,
    write_load,
    write_model,
    write_vector,
)
from seam.inference.v1 import model_service_pb2, session_pb2, work_pb2

NOW = 500.0


def read(**work):
    return read_generate_work(work_pb2.GenerateWork(prompt={"text": "x"}, **work))


def test_absent_fields_are_neutral():
    assert read() == GenerateWork(TextPrompt("x"))
    assert read(sampling={}, stop={}, format={}, detail={}) == GenerateWork(TextPrompt("x"))


def test_every_field_of_a_generation_is_read():
    asked = work_pb2.GenerateWork(
        prompt={"chat": {"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": False}},
        sampling={
            "temperature": 0.5,
            "top_k": 3,
            "top_p": 0.25,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "presence_penalty": -1,
            "frequency_penalty": 2,
            "logit_bias": {7: -1.5},
            "seed": 2**64 - 1,
        },
        stop={
            "max_output_tokens": 9,
            "min_output_tokens": 2,
            "stop_strings": ["a", "b"],
            "stop_token_ids": [4],
            "ignore_end_token": True,
        },
        format={"choice": {"texts": ["yes", "no"]}},
        detail={"logprobs": True, "top_logprob_count": 5, "prompt_logprobs": True},
        resume={"output_token_ids": [1, 2]},
    )
    assert read_generate_work(asked) == GenerateWork(
        ChatPrompt((Message("user", "hi"),), add_generation_prompt=False),
        Sampling(0.5, 3, 0.25, 0.125, 1.5, -1, 2, {7: -1.5}, 2**64 - 1),
        StopConditions(9, 2, ("a", "b"), (4,), True),
        Choice(("yes", "no")),
        OutputDetail(True, 5, True),
        (1, 2),
    )


def test_zero_that_is_said_is_not_absence():
    assert read(sampling={"temperature": 0.0, "top_p": 0.0, "repetition_penalty": 0.0, "seed": 0}).sampling == Sampling(
        temperature=0.0, top_p=0.0, repetition_penalty=0.0, seed=0
    )
    assert read(stop={"max_output_tokens": 0}).stop.max_output_tokens == 0
    assert read(resume={}).resumed_ids == ()
    assert read_embed_work(work_pb2.EmbedWork(dimension_count=0, normalize=False)) == EmbedWork(
        (), normalize=False, dimension_count=0
    )


@pytest.mark.parametrize(
    ("told", "inside"),
    [({"json_schema": "{}"}, JsonSchema("{}")), ({"regex": "a+"}, Regex("a+")), ({}, None)],
)
def test_each_format_is_read(told, inside):
    assert read(format=told).format == inside


def test_token_prompts_are_read():
    assert read_generate_work(work_pb2.GenerateWork(prompt={"tokens": {"ids": [5, 6]}})).prompt == TokenPrompt((5, 6))


def test_embedding_and_scoring_are_read():
    embed = work_pb2.EmbedWork(texts=["a"], truncation=2, dimension_count=4, prompt_name="query")
    assert read_embed_work(embed) == EmbedWork(("a",), Truncation.DROP_END, 4, True, "query")
    score = work_pb2.ScoreWork(inputs=[{"text": "a"}, {"text": "a", "text_pair": ""}], activation=2)
    assert read_score_work(score) == ScoreWork(
        (ScoreInput("a"), ScoreInput("a", "")), activation=ScoreActivation.SIGMOID
    )


@pytest.mark.parametrize(
    ("message", "kind", "field"),
    [
        ({}, InvalidField, "work"),
        ({"generate": {}}, TextEmpty, "work.prompt"),
        ({"embed": {"truncation": 9}}, InvalidField, "work.truncation"),
        ({"score": {"activation": 9}}, InvalidField, "work.activation"),
        ({"embed": {}, "context": {"priority": 9}}, InvalidField, "context.priority"),
        ({"embed": {}, "context": {"timeout": {"seconds": -1}}}, InvalidField, "context.timeout"),
        ({"embed": {}, "context": {"timeout": {"nanos": -1}}}, InvalidField, "context.timeout"),
        ({"embed": {}, "context": {"timeout": {"seconds": 1, "nanos": -1}}}, InvalidField, "context.timeout"),
        ({"embed": {}, "context": {"timeout": {"seconds": 10**12}}}, InvalidField, "context.timeout"),
        (
            {"embed": {}, "context": {"first_token_timeout": {"nanos": 10**9}}},
            InvalidField,
            "context.first_token_timeout",
        ),
    ],
)
def test_what_makes_no_sense_by_itself_is_refused_by_its_path(message, kind, field):
    with pytest.raises(SeamError) as refused:
        read_submit(session_pb2.Submit(**message), NOW)
    assert type(refused.value) is kind
    assert [violation.field for violation in refused.value.violations] == [field]


def test_a_timeout_of_zero_has_expired():
    with pytest.raises(DeadlineExpired, match=r"context\.timeout"):
        read_context(session_pb2.RequestContext(timeout={}), NOW)


def test_durations_become_moments_and_the_earlier_deadline_holds():
    context = session_pb2.RequestContext(
        priority=3,
        first_token_timeout={"nanos": 500_000_000},
        timeout={"seconds": 2},
        tenant_key="t",
        trace={"traceparent": "p", "tracestate": "s"},
    )
    assert read_context(context, NOW) == Context(Priority.INTERACTIVE, 500.5, 502.0, "t", "p", "s")
    assert read_context(context, NOW, call_seconds=1.0).deadline == 501.0
    assert read_context(context, NOW, call_seconds=3.0).deadline == 502.0
    assert read_context(session_pb2.RequestContext(), NOW, call_seconds=3.0).deadline == 503.0
    assert read_context(session_pb2.RequestContext(), NOW) == Context()


def test_a_submit_without_credits_has_no_limit():
    submit = session_pb2.Submit(model="embed", embed={"texts": ["a"]})
    assert read_submit(submit, NOW) == Request("embed", EmbedWork(("a",)))
    submit.initial_credits = 0
    assert read_submit(submit, NOW).credits == 0


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=300))
def test_a_vector_crosses_bit_for_bit(values):
    told = write_vector(Vector(3, np.array(values, np.float32), 7, True))
    again = work_pb2.Embedding.FromString(told.SerializeToString())
    assert np.array_equal(np.array(again.values, np.float32), np.array(values, np.float32))
    assert (again.index, again.input_token_count, again.truncated) == (3, 7, True)


def test_vectors_of_another_byte_order_or_layout_cross_too():
    values = np.arange(8, dtype=">f4")[::2]
    assert list(write_vector(Vector(0, values, 1, False)).values) == [0, 2, 4, 6]


def frame_of(*events):
    frame = session_pb2.SessionResponse()
    write_events(9, events, frame)
    assert all(event.request_id == 9 for event in frame.events)
    return frame.events


def test_tokens_in_a_row_become_one_event_and_lose_nothing():
    position = PositionLogprobs(TokenLogprob(1, -0.5, "a"), (TokenLogprob(2, -1.5, "b"),))
    first, last = Tokens((1,), "a", (position,), (position,)), Tokens((2, 3), "bc", (position, position))
    accepted, tokens, finished = frame_of(
        Accepted(4), first, last, Finished(FinishReason.STOP_STRING, Usage(4, 3, 1), Timings(0.5, 1.25), "end")
    )
    assert accepted.accepted.input_token_count == 4
    assert not accepted.accepted.HasField("seed")
    assert (list(tokens.tokens.ids), tokens.tokens.text) == ([1, 2, 3], "abc")
    assert (len(tokens.tokens.logprobs), len(tokens.tokens.prompt_logprobs)) == (3, 1)
    assert tokens.tokens.logprobs[0].top[0].text == "b"
    assert finished.finished.reason == work_pb2.FINISH_REASON_STOP_STRING
    assert finished.finished.stop_string == "end"
    assert finished.finished.usage.cached_token_count == 1
    assert finished.finished.timings.prefill.nanos == 250_000_000


def test_the_seed_in_use_is_told():
    assert frame_of(Accepted(1, seed=0))[0].accepted.HasField("seed")


def test_results_and_failures_are_told():
    vectors, scores, failed = frame_of(
        Vectors((Vector(0, np.ones(2, np.float32), 3, False),)),
        Scores((Score(1, (("no", 0.25), ("yes", 0.75)), 3, True),)),
        Failed(QueueFull("full")),
    )
    assert list(vectors.vectors.embeddings[0].values) == [1, 1]
    assert [(label.label, label.score) for label in scores.scores.scores[0].labels] == [("no", 0.25), ("yes", 0.75)]
    assert failed.failed.message == "full"


def test_vectors_come_back_in_the_order_of_the_texts():
    vectors = [Vector(index, np.array([index], np.float32), 1, False) for index in (2, 0, 1)]
    told = write_embed_response(vectors, Finished(FinishReason.NONE, Usage(3), Timings(0, 0)))
    assert [list(each.values) for each in told.embeddings] == [[0], [1], [2]]
    assert told.usage.input_token_count == 3


def test_load_is_told():
    told = write_load([ModelLoad("chat", 1, 2, 3, 4, 0.5, 61.5)], draining=True)
    assert told.state == session_pb2.REPLICA_STATE_DRAINING
    model = told.models[0]
    assert (model.running_sequence_count, model.waiting_sequence_count) == (1, 2)
    assert (model.queued_token_count, model.free_cache_token_count) == (3, 4)
    assert (model.step_duration.nanos, model.predicted_wait.seconds) == (500_000_000, 61)


def test_a_model_is_told_whole():
    info = ModelInfo(
        name="embed",
        task=Task.EMBED,
        source="s",
        architecture="A",
        limits=ModelLimits(1, 2, 3, 4),
        device="cpu",
        dtype="float32",
        vocabulary_size=5,
        dimension_count=6,
        labels=("l",),
        notice="n",
        unavailable_features=("work.format",),
    )
    told = write_model(CatalogueEntry(info, ModelState.READY))
    assert told == model_service_pb2.Model(
        name="embed",
        task=model_service_pb2.TASK_EMBED,
        source="s",
        architecture="A",
        state=model_service_pb2.MODEL_STATE_READY,
        limits={"max_context_tokens": 1, "max_output_tokens": 2, "max_texts": 3, "max_text_bytes": 4},
        device="cpu",
        dtype="float32",
        dimension_count=6,
        labels=["l"],
        vocabulary_size=5,
        notice="n",
        unavailable_features=["work.format"],
    )
