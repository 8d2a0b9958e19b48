"""What admission lets in, and the words with which it refuses."""

import asyncio
import math
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.admission import Admission, AdmissionLimits, accepted
from inference_svc.catalogue import Catalogue
from inference_svc.errors import (
    DeadlineExpired,
    FeatureNotAvailable,
    InputTooLong,
    InvalidField,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    SeamError,
    TaskNotSupported,
    TextEmpty,
    TooManyTexts,
)
from inference_svc.model import ModelSpec
from inference_svc.requests import (
    ChatPrompt,
    Choice,
    Context,
    EmbedWork,
    GenerateWork,
    Generation,
    JsonSchema,
    Message,
    OutputDetail,
    Regex,
    Request,
    Sampling,
    ScoreInput,
    ScoreWork,
    StopConditions,
    Task,
    TextPrompt,
    TokenPrompt,
    Truncation,
)
from support.echo import EchoTokenizer, echo_model

NOW = 1000.0
TASKS = {"chat": Task.GENERATE, "embed": Task.EMBED, "score": Task.SCORE}


def admission_of(*models, limits=None, tokenizer=None):
    specs = [ModelSpec(name, task, "echo") for name, task in TASKS.items()]
    catalogue = Catalogue(specs)
    for spec in specs:
        model = echo_model(spec.name, spec.task, max_texts=4, max_text_bytes=1000)
        model = replace(model, info=replace(model.info, unavailable_features=()))
        catalogue.ready(replace(model, tokenizer=tokenizer) if tokenizer else model)
    for model in models:
        catalogue.ready(model)
    return Admission(catalogue, limits or AdmissionLimits(), lambda: NOW, draw_seed=lambda: 4711)


@pytest.fixture(scope="module")
def admission():
    with admission_of() as admission:
        yield admission


def generate(prompt=None, **work):
    return Request("chat", GenerateWork(prompt or TextPrompt("hello"), **work))


def refusal(admission, request):
    with pytest.raises(SeamError) as refused:
        admission.admit_now(request)
    return refused.value


def assert_refused(admission, request, kind, field):
    error = refusal(admission, request)
    assert type(error) is kind, error
    assert [violation.field for violation in error.violations] == [field]
    assert error.violations[0].description


def test_a_generation_is_tokenised_and_given_the_rest_of_the_context(admission):
    ready = admission.admit_now(generate())
    assert isinstance(ready, Generation)
    assert bytes(ready.prompt_ids) == b"hello"
    assert ready.max_output_tokens == 512 - 5
    assert ready.end_token_ids == EchoTokenizer.end_token_ids


def test_a_chat_is_rendered_by_the_models_template(admission):
    ready = admission.admit_now(generate(ChatPrompt((Message("user", "hi"),))))
    assert bytes(ready.prompt_ids) == b"user: hi\nassistant: "


def test_the_models_end_token_may_be_ignored_and_others_added(admission):
    stop = StopConditions(ignore_end_token=True, stop_token_ids=(7, 9))
    assert admission.admit_now(generate(stop=stop)).end_token_ids == {7, 9}


def test_a_sampled_generation_gets_a_seed_and_is_told_it(admission):
    ready = admission.admit_now(generate(sampling=Sampling(temperature=1.0)))
    assert ready.sampling.seed == accepted(ready).seed == 4711


def test_a_greedy_generation_is_told_no_seed(admission):
    ready = admission.admit_now(generate())
    assert ready.sampling.seed is not None
    assert accepted(ready).seed is None


def test_a_given_seed_stays(admission):
    ready = admission.admit_now(generate(sampling=Sampling(temperature=1.0, seed=2**64 - 1)))
    assert accepted(ready).seed == 2**64 - 1


def test_sampling_settings_beside_temperature_zero_are_allowed(admission):
    admission.admit_now(generate(sampling=Sampling(top_k=5, top_p=0.5, min_p=0.1)))


BAD_SAMPLING = {
    "temperature": st.floats().filter(lambda v: not 0 <= v <= 100),
    "top_p": st.floats().filter(lambda v: not 0 < v <= 1),
    "min_p": st.floats().filter(lambda v: not 0 <= v <= 1),
    "repetition_penalty": st.floats().filter(lambda v: not (v > 0 and math.isfinite(v))),
    "presence_penalty": st.floats().filter(lambda v: not -2 <= v <= 2),
    "frequency_penalty": st.floats().filter(lambda v: not -2 <= v <= 2),
}


@pytest.mark.parametrize("name", BAD_SAMPLING)
@settings(max_examples=40)
@given(draw=st.data())
def test_a_number_out_of_its_range_is_refused_by_its_name(name, draw):
    value = draw.draw(BAD_SAMPLING[name])
    with admission_of() as admission:
        assert_refused(admission, generate(sampling=Sampling(**{name: value})), InvalidField, f"work.sampling.{name}")


@settings(max_examples=40)
@given(
    st.builds(
        Sampling,
        temperature=st.floats(0, 100),
        top_p=st.floats(0, 1, exclude_min=True),
        min_p=st.floats(0, 1),
        repetition_penalty=st.floats(1e-9, 1e9),
        presence_penalty=st.floats(-2, 2),
        frequency_penalty=st.floats(-2, 2),
        logit_bias=st.dictionaries(st.integers(0, 257), st.floats(-100, 100), max_size=5),
        seed=st.integers(0, 2**64 - 1),
    )
)
def test_everything_inside_the_ranges_is_let_in_unchanged(sampling):
    with admission_of() as admission:
        assert admission.admit_now(generate(sampling=sampling)).sampling == sampling


@pytest.mark.parametrize(
    ("work", "kind", "field"),
    [
        ({"sampling": Sampling(logit_bias={258: 1.0})}, InvalidField, "work.sampling.logit_bias[0]"),
        ({"sampling": Sampling(logit_bias={3: 100.5})}, InvalidField, "work.sampling.logit_bias[3]"),
        ({"sampling": Sampling(logit_bias={3: math.nan})}, InvalidField, "work.sampling.logit_bias[3]"),
        ({"sampling": Sampling(logit_bias=dict.fromkeys(range(1025), 0.0))}, InvalidField, "work.sampling.logit_bias"),
        ({"stop": StopConditions(max_output_tokens=0)}, InvalidField, "work.stop.max_output_tokens"),
        ({"stop": StopConditions(max_output_tokens=508)}, InputTooLong, "work.stop.max_output_tokens"),
        ({"stop": StopConditions(max_output_tokens=513)}, InvalidField, "work.stop.max_output_tokens"),
        ({"stop": StopConditions(4, min_output_tokens=5)}, InvalidField, "work.stop.min_output_tokens"),
        ({"stop": StopConditions(min_output_tokens=508)}, InputTooLong, "work.stop.min_output_tokens"),
        ({"stop": StopConditions(stop_strings=("a", ""))}, InvalidField, "work.stop.stop_strings[1]"),
        ({"stop": StopConditions(stop_strings=("ä" * 129,))}, InvalidField, "work.stop.stop_strings[0]"),
        ({"stop": StopConditions(stop_strings=("a",) * 17)}, InvalidField, "work.stop.stop_strings"),
        ({"stop": StopConditions(stop_token_ids=(1, 258))}, InvalidField, "work.stop.stop_token_ids[1]"),
        ({"detail": OutputDetail(top_logprob_count=3)}, InvalidField, "work.detail.top_logprob_count"),
        ({"detail": OutputDetail(True, top_logprob_count=21)}, InvalidField, "work.detail.top_logprob_count"),
        ({"resumed_ids": (5, 999)}, InvalidField, "work.resume.output_token_ids[1]"),
        ({"resumed_ids": (5,), "sampling": Sampling(1.0)}, InvalidField, "work.sampling.seed"),
        ({"resumed_ids": (5, 5), "stop": StopConditions(1)}, InvalidField, "work.resume.output_token_ids"),
        ({"format": JsonSchema("")}, InvalidField, "work.format.json_schema"),
        ({"format": Regex("")}, InvalidField, "work.format.regex"),
        ({"format": Choice(())}, InvalidField, "work.format.choice.texts"),
        ({"format": Choice(("a", ""))}, InvalidField, "work.format.choice.texts[1]"),
    ],
)
def test_a_bad_field_of_a_generation_is_refused_by_its_path(admission, work, kind, field):
    assert_refused(admission, generate(**work), kind, field)


@pytest.mark.parametrize(
    ("prompt", "kind", "field"),
    [
        (TextPrompt(""), TextEmpty, "work.prompt.text"),
        (TextPrompt("x" * 1001), InputTooLong, "work.prompt.text"),
        (TextPrompt("ä" * 501), InputTooLong, "work.prompt.text"),
        (TextPrompt("x" * 512), InputTooLong, "work.prompt"),
        (TokenPrompt(()), TextEmpty, "work.prompt"),
        (TokenPrompt((3, 258)), InvalidField, "work.prompt.tokens.ids[1]"),
        (TokenPrompt((3,) * 512), InputTooLong, "work.prompt"),
        (ChatPrompt(()), TextEmpty, "work.prompt.chat.messages"),
        (ChatPrompt((Message("", "x"),)), InvalidField, "work.prompt.chat.messages[0].role"),
        (ChatPrompt((Message("user", ""),)), TextEmpty, "work.prompt.chat.messages[0].content"),
        (ChatPrompt((Message("refused", "x"),)), InvalidField, "work.prompt.chat.messages"),
        (
            ChatPrompt((Message("user", "x" * 600), Message("user", "x" * 401))),
            InputTooLong,
            "work.prompt.chat.messages[1].content",
        ),
    ],
)
def test_a_bad_prompt_is_refused_by_its_path(admission, prompt, kind, field):
    assert_refused(admission, generate(prompt), kind, field)


def test_an_assistant_turn_may_be_empty(admission):
    admission.admit_now(generate(ChatPrompt((Message("user", "x"), Message("assistant", "")))))


@pytest.mark.parametrize(
    ("request_", "kind", "field"),
    [
        (Request("nobody", EmbedWork(("x",))), ModelNotFound, "model"),
        (Request("chat", EmbedWork(("x",))), TaskNotSupported, "work"),
        (Request("embed", ScoreWork((ScoreInput("x"),))), TaskNotSupported, "work"),
        (Request("score", GenerateWork(TextPrompt("x"))), TaskNotSupported, "work"),
        (Request("embed", EmbedWork(())), TextEmpty, "work.texts"),
        (Request("embed", EmbedWork(("x", "y", "z", ""))), TextEmpty, "work.texts[3]"),
        (Request("embed", EmbedWork(("x",) * 5)), TooManyTexts, "work.texts"),
        (Request("embed", EmbedWork(("x", "y" * 1001))), InputTooLong, "work.texts[1]"),
        (Request("embed", EmbedWork(("x", "y" * 513))), InputTooLong, "work.texts[1]"),
        (Request("embed", EmbedWork(("x",), dimension_count=0)), InvalidField, "work.dimension_count"),
        (Request("embed", EmbedWork(("x",), dimension_count=9)), InvalidField, "work.dimension_count"),
        (Request("embed", EmbedWork(("x",), prompt_name="none")), InvalidField, "work.prompt_name"),
        (Request("score", ScoreWork((ScoreInput(""),))), TextEmpty, "work.inputs[0].text"),
        (Request("score", ScoreWork((ScoreInput("x", ""),))), TextEmpty, "work.inputs[0].text_pair"),
        (Request("score", ScoreWork((ScoreInput("x" * 300, "x" * 300),))), InputTooLong, "work.inputs[0]"),
        (Request("embed", EmbedWork(("x",)), Context(tenant="t" * 257)), InvalidField, "context.tenant_key"),
    ],
)
def test_other_bad_requests_are_refused_by_their_path(admission, request_, kind, field):
    assert_refused(admission, request_, kind, field)


def test_a_limit_is_named_where_it_is_broken(admission):
    assert "at most 4" in refusal(admission, Request("embed", EmbedWork(("x",) * 5))).message
    assert "1000 bytes" in refusal(admission, generate(TextPrompt("x" * 1001))).message
    assert "512" in refusal(admission, Request("embed", EmbedWork(("y" * 513,)))).message


def test_an_input_over_the_limit_is_cut_where_that_was_asked_for(admission):
    ready = admission.admit_now(Request("embed", EmbedWork(("ab", "y" * 600), truncation=Truncation.DROP_END)))
    assert [(each.index, len(each.token_ids), each.truncated) for each in ready.inputs] == [
        (0, 2, False),
        (1, 512, True),
    ]


def test_a_named_prompt_stands_before_each_text(admission):
    ready = admission.admit_now(Request("embed", EmbedWork(("ab",), prompt_name="query")))
    assert bytes(ready.inputs[0].token_ids) == b"query: ab"
    assert accepted(ready).input_token_count == 9


@pytest.mark.parametrize("deadline", ["deadline", "first_token_deadline"])
def test_a_deadline_that_passed_is_refused(admission, deadline):
    with pytest.raises(DeadlineExpired, match="context"):
        admission.admit_now(replace(generate(), context=Context(**{deadline: NOW})))


@pytest.mark.parametrize(
    ("path", "work", "field"),
    [
        ("work.format", {"format": JsonSchema("{}")}, "work.format.json_schema"),
        ("work.format", {"format": Choice(("a",))}, "work.format.choice"),
        ("format.regex", {"format": Regex("a")}, "work.format.regex"),
        ("work.detail.prompt_logprobs", {"detail": OutputDetail(prompt_logprobs=True)}, "work.detail.prompt_logprobs"),
        ("work.sampling.min_p", {"sampling": Sampling(min_p=0.5)}, "work.sampling.min_p"),
        ("work.resume", {"resumed_ids": ()}, "work.resume"),
        ("work.stop.stop_strings", {"stop": StopConditions(stop_strings=("a",))}, "work.stop.stop_strings"),
    ],
)
def test_what_a_model_lists_as_unavailable_is_refused_and_nothing_else(path, work, field):
    model = echo_model("chat")
    listed = replace(model, info=replace(model.info, unavailable_features=(path,)))
    with admission_of(listed) as admission:
        assert_refused(admission, generate(**work), FeatureNotAvailable, field)
        admission.admit_now(generate())


def test_a_model_that_loads_is_not_ready():
    catalogue = Catalogue([ModelSpec("chat", Task.GENERATE, "echo")])
    with Admission(catalogue, AdmissionLimits(), lambda: NOW) as admission, pytest.raises(ModelNotReady) as refused:
        admission.admit_now(generate())
    assert refused.value.retry_after


class HeldTokenizer(EchoTokenizer):
    def __init__(self):
        self.go = threading.Event()
        self.threads = []

    def encode_text(self, text):
        self.threads.append(threading.current_thread())
        assert self.go.wait(30)
        return super().encode_text(text)


LONG = generate(TextPrompt("x" * 500))
FEW = AdmissionLimits(inline_units=400, thread_count=1, waiting=2)


async def test_a_long_text_is_tokenised_on_another_thread_while_the_loop_goes_on():
    tokenizer = HeldTokenizer()
    with admission_of(tokenizer=tokenizer, limits=FEW) as admission:
        assert not admission.is_quick(LONG)
        held = asyncio.create_task(admission.admit(LONG))
        await asyncio.sleep(0)
        assert not held.done()
        tokenizer.go.set()
        assert len((await held).prompt_ids) == 500
    assert tokenizer.threads[0] is not threading.main_thread()


async def test_what_waits_to_be_tokenised_is_bounded():
    tokenizer = HeldTokenizer()
    with admission_of(tokenizer=tokenizer, limits=FEW) as admission:
        held = [asyncio.create_task(admission.admit(LONG)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as refused:
            await admission.admit(LONG)
        assert refused.value.retry_after
        tokenizer.go.set()
        await asyncio.gather(*held)
        await admission.admit(LONG)


async def test_a_deadline_bounds_the_wait_for_a_thread():
    tokenizer = HeldTokenizer()
    with admission_of(tokenizer=tokenizer, limits=FEW) as admission:
        with pytest.raises(DeadlineExpired):
            await admission.admit(replace(LONG, context=Context(deadline=NOW + 0.01)))
        tokenizer.go.set()


async def test_a_prompt_is_counted_as_a_generation_would_take_it(admission):
    ids, limit = await admission.count("chat", ChatPrompt((Message("user", "hi"),)), Context())
    assert (bytes(ids), limit) == (b"user: hi\nassistant: ", 512)
    ids, _ = await admission.count("embed", TextPrompt("abc"), Context())
    assert len(ids) == 3
    with pytest.raises(TaskNotSupported):
        await admission.count("embed", TokenPrompt((1,)), Context())
    with pytest.raises(TextEmpty, match=r"prompt\.text"):
        await admission.count("chat", TextPrompt(""), Context())
