"""Answers with a format are those of the plain model with every forbidden token taken out, in every way of being
served; and beside them nobody's answer changes."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.engine.runner import Row
from inference_svc.models.format_masks import unpacked
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.grammar import Grammars
from inference_svc.requests import Choice, Generation, JsonSchema, OutputFormat, Regex, Sampling
from support.driving import Driver, Running, generation, resumed
from support.formats import END, VOCABULARY, grammars, pieces, spelled, text_of
from support.generation_models import build_model
from support.plain_generation import choose

PIECES = pieces()
TEXTS = {
    "words": ("ab", "abab", "abab true", "12ab", '{a":12}', " éa"),
    "long": ("aba" * 9, "abb" * 7 + "true", "1212" * 5),
    "one": ("éé true",),
}
SAMPLINGS = {
    "greedy": Sampling(seed=0),
    "drawn": Sampling(temperature=1.5, seed=77),
    "limited": Sampling(temperature=1.0, seed=5, top_k=20, top_p=0.9, min_p=0.001),
    "penalised": Sampling(
        temperature=0.7, seed=8, repetition_penalty=1.4, frequency_penalty=0.5, logit_bias={101: 9.0, 3: 50.0}
    ),
}
Answers = dict[str, list[int]]


@pytest.fixture(scope="module")
def compiler() -> Grammars:
    return grammars()


@pytest.fixture(scope="module")
def runner() -> PackedGenerationRunner:
    torch.set_num_threads(1)
    return PackedGenerationRunner(build_model("llama"), slot_count=32, max_context_tokens=128)


@pytest.fixture(scope="module")
def asked(compiler: Grammars) -> dict[str, Generation]:
    draw = random.Random(5)
    return {
        f"{name} {how}": generation(
            [draw.randrange(4, 500) for _ in range(3 + 5 * index)],
            60,
            sampling=sampling,
            end_token_ids=(END,),
            min_output_tokens=4 * (index % 2),
            grammar=compiler.compiled(Choice(texts)),
        )
        for index, (name, texts) in enumerate(TEXTS.items())
        for how, sampling in SAMPLINGS.items()
    }


@pytest.fixture(scope="module")
def expected(asked: dict[str, Generation]) -> Answers:
    model = build_model("llama")
    return {name: plain_answer(model, each, TEXTS[name.split()[0]]) for name, each in asked.items()}


def plain_answer(model: torch.nn.Module, asked: Generation, texts: tuple[str, ...]) -> list[int]:
    ids: list[int] = []
    while True:
        with torch.inference_mode():
            logits = model(torch.tensor([[*asked.prompt_ids, *ids]])).logits[0, -1].double().numpy()
        written = b"".join(PIECES[token_id] or b"" for token_id in ids)
        left = [text.encode()[len(written) :] for text in texts if text.encode().startswith(written)]
        if left == [b""]:
            return ids
        allowed = [at for at, piece in enumerate(PIECES) if piece and any(each.startswith(piece) for each in left)]
        if b"" in left and len(ids) >= asked.min_output_tokens:
            allowed.append(END)
        masked = np.full(VOCABULARY, -np.inf)
        masked[allowed] = logits[allowed]
        ids.append(choose(masked, asked, ids))
        if ids[-1] == END:
            return ids


def answers_of(served: dict[str, Running]) -> Answers:
    assert [name for name, each in served.items() if each.told and each.told[-1].fault] == []
    return {name: each.output_ids for name, each in served.items()}


def alone(runner: PackedGenerationRunner, asked: dict[str, Generation]) -> Answers:
    return answers_of(Driver(runner, at_once=1).run(asked))


def together(runner: PackedGenerationRunner, asked: dict[str, Generation]) -> Answers:
    return answers_of(Driver(runner).run(asked))


def put_off_and_chunked(runner: PackedGenerationRunner, asked: dict[str, Generation]) -> Answers:
    driver = Driver(runner, chunk=4, whims=random.Random(3))
    answers = answers_of(driver.run(asked))
    assert driver.put_off_count > 3
    return answers


def beside_free_text(runner: PackedGenerationRunner, asked: dict[str, Generation]) -> Answers:
    free = {f"free {name}": replace(each, grammar=None, end_token_ids=frozenset()) for name, each in asked.items()}
    free = {name: replace(each, max_output_tokens=12) for name, each in free.items()}
    undisturbed = answers_of(Driver(runner, at_once=1).run(free))
    mixed = answers_of(Driver(runner, whims=random.Random(4)).run({**asked, **free}))
    assert {name: mixed[name] for name in free} == undisturbed
    return {name: mixed[name] for name in asked}


@pytest.mark.parametrize("way", [alone, together, put_off_and_chunked, beside_free_text], ids=lambda way: way.__name__)
def test_the_answer_is_the_plain_model_s_among_what_is_allowed(
    runner: PackedGenerationRunner,
    asked: dict[str, Generation],
    expected: Answers,
    way: Callable[[PackedGenerationRunner, dict[str, Generation]], Answers],
) -> None:
    assert len({tuple(ids) for ids in expected.values()}) > 6, "answers must differ"
    assert way(runner, asked) == expected


def test_an_answer_goes_on_from_every_position(
    runner: PackedGenerationRunner, asked: dict[str, Generation], expected: Answers
) -> None:
    again = {
        f"{name} at {at}": resumed(each, expected[name][:at])
        for name, each in asked.items()
        for at in range(1, len(expected[name]))
    }
    answers = together(runner, again)
    assert {name: ids for name, ids in answers.items() if ids != expected[name.rpartition(" at ")[0]]} == {}


def test_a_step_that_comes_again_gives_the_same_token(runner: PackedGenerationRunner, compiler: Grammars) -> None:
    each = generation([9, 8, 7], 20, end_token_ids=(END,), grammar=compiler.compiled(Regex("(ab|12|true){3}")))
    runner.open(0, each)
    ids = list(each.prompt_ids)
    while True:
        row = Row(0, len(ids) - 1 if len(ids) > 3 else 0, ids[-1:] if len(ids) > 3 else ids, True, len(ids) - 3)
        tokens = [runner.step([row])[0] for _ in range(3)]
        assert tokens[0] is not None
        assert tokens[0] == tokens[1] == tokens[2]
        ids.append(tokens[0].token_id)
        if tokens[0].completes:
            break
    runner.close(0)
    assert re.fullmatch("(ab|12|true){3}", text_of(ids[3:]))


def test_logprobs_are_of_the_model_s_own_distribution(runner: PackedGenerationRunner, compiler: Grammars) -> None:
    from inference_svc.requests import OutputDetail

    told = OutputDetail(logprobs=True, top_logprob_count=3)
    free = generation([5, 6, 7], 1, detail=told)
    formed = generation([5, 6, 7], 9, detail=told, grammar=compiler.compiled(Choice(("ab true",))))
    answers = Driver(runner).run({"free": free, "formed": formed})
    assert answers["formed"].told[0].top == answers["free"].told[0].top
    assert answers["formed"].told[0].logprob < answers["free"].told[0].logprob


def only(runner: PackedGenerationRunner, asked: Generation) -> Running:
    return Driver(runner).run({"only": asked})["only"]


def test_an_end_token_is_allowed_where_the_format_is_complete_and_nowhere_else(
    runner: PackedGenerationRunner, compiler: Grammars
) -> None:
    wanted = Sampling(seed=0, logit_bias={END: 100.0})
    grammar = compiler.compiled(Regex("(ab1){1,4}"))
    answer = only(runner, generation([5], 40, sampling=wanted, end_token_ids=(END,), grammar=grammar))
    assert answer.output_ids[-1] == END
    assert text_of(answer.output_ids) == "ab1"
    late = generation([5], 40, sampling=wanted, end_token_ids=(END,), min_output_tokens=7, grammar=grammar)
    answer = only(runner, late)
    assert answer.output_ids[-1] == END
    assert len(answer.output_ids) >= 8
    assert text_of(answer.output_ids) in ("ab1ab1ab1", "ab1ab1ab1ab1")


def test_a_smallest_length_does_not_keep_a_complete_answer_from_ending(
    runner: PackedGenerationRunner, compiler: Grammars
) -> None:
    grammar = compiler.compiled(Regex("ab"))
    answer = only(runner, generation([5], 40, end_token_ids=(END,), min_output_tokens=20, grammar=grammar))
    assert text_of(answer.output_ids) == "ab"
    assert answer.told[-1].completes


def test_a_stop_token_that_is_a_word_ends_the_answer_and_is_no_part_of_it(
    runner: PackedGenerationRunner, compiler: Grammars
) -> None:
    (a,) = spelled("a")
    wanted = Sampling(seed=0, logit_bias={a: 100.0})
    grammar = compiler.compiled(Regex("[bc]{3}a{0,4}"))
    answer = only(runner, generation([5], 40, sampling=wanted, end_token_ids=(a,), grammar=grammar))
    assert answer.output_ids[-1] == a
    assert re.fullmatch("[bc]{3}", text_of(answer.output_ids[:-1]))
    assert answer.told[-1].completes


def test_an_answer_with_no_token_left_fails_and_no_other(runner: PackedGenerationRunner, compiler: Grammars) -> None:
    blocked = (*spelled("b"), *(at for at, piece in enumerate(PIECES) if piece and b"b" in piece))
    stuck = generation([5, 6], 9, end_token_ids=blocked, grammar=compiler.compiled(Regex("a1b")))
    fine = generation([5, 6], 9, end_token_ids=(END,), grammar=compiler.compiled(Regex("a1c")))
    answers = Driver(runner).run({"stuck": stuck, "fine": fine})
    assert "allows no token of this model after 2 tokens" in answers["stuck"].told[-1].fault
    assert text_of(answers["fine"].output_ids) == "a1c"


def test_an_answer_without_any_end_token_ends_with_its_format(
    runner: PackedGenerationRunner, compiler: Grammars
) -> None:
    answer = only(runner, generation([5], 90, grammar=compiler.compiled(JsonSchema('{"const": {"a": [true]}}'))))
    assert json.loads(text_of(answer.output_ids)) == {"a": [True]}


def test_masks_unpack_alike_on_any_device() -> None:
    words = np.random.default_rng(0).integers(-(2**31), 2**31, (5, 17), dtype=np.int64).astype(np.int32)
    bits = np.unpackbits(words.view(np.uint8), axis=1, count=517, bitorder="little").astype(bool)
    assert unpacked(torch.from_numpy(words), 517).tolist() == bits.tolist()


# --- whatever the format ------------------------------------------------------------------------------------------

letters = st.sampled_from(["a", "b", "1", "é", "[ab]", "[^a]", r"\d", ".", r"\."])
patterns = st.recursive(
    letters,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["?", "*", "+", "{2}", "{0,2}", "{1,3}"])).map(lambda p: f"({p[0]}){p[1]}"),
    ),
    max_leaves=6,
)
bounded = st.tuples(st.integers(-30, 30), st.integers(0, 40)).map(
    lambda at: {"type": "integer", "minimum": at[0], "maximum": at[0] + at[1]}
)
plain_schemas = st.one_of(
    bounded,
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.integers(0, 3).map(lambda n: {"type": "string", "maxLength": n}),
    st.just({"type": "string", "pattern": "^[ab]{1,3}$"}),
    st.lists(st.sampled_from(["a", "ab", 1, None, True, 2.5]), min_size=1, max_size=3).map(lambda e: {"enum": e}),
)
schemas = st.recursive(
    plain_schemas,
    lambda inner: st.one_of(
        st.tuples(inner, st.integers(0, 2)).map(
            lambda made: {"type": "array", "items": made[0], "minItems": made[1], "maxItems": made[1] + 1}
        ),
        st.lists(inner, min_size=1, max_size=2).map(lambda each: {"anyOf": each}),
        st.tuples(st.dictionaries(st.sampled_from(["a", "b", "é"]), inner, max_size=3), st.randoms()).map(
            lambda made: {
                "type": "object",
                "properties": made[0],
                "required": [key for key in made[0] if made[1].random() < 0.6],
                "additionalProperties": False,
            }
        ),
    ),
    max_leaves=5,
)


def finished_texts(runner: PackedGenerationRunner, compiler: Grammars, asked: OutputFormat) -> list[str]:
    grammar = compiler.compiled(asked)
    requests = {
        str(seed): generation(
            [7, seed],
            60,
            sampling=Sampling(temperature=2.0, seed=seed, top_k=40 * (seed % 2)),
            end_token_ids=(END,),
            grammar=grammar,
        )
        for seed in range(4, 8)
    }
    answers = Driver(runner).run(requests).values()
    assert [each.told[-1].fault for each in answers if each.told[-1].fault] == []
    return [text_of(each.output_ids) for each in answers if each.told[-1].completes]


@settings(max_examples=25)
@given(pattern=patterns)
def test_what_is_finished_matches_its_pattern(runner: PackedGenerationRunner, compiler: Grammars, pattern: str) -> None:
    for text in finished_texts(runner, compiler, Regex(pattern)):
        assert re.fullmatch(pattern, text, re.ASCII), (pattern, text)


@settings(max_examples=25)
@given(schema=schemas)
def test_what_is_finished_is_json_that_its_schema_allows(
    runner: PackedGenerationRunner, compiler: Grammars, schema: dict[str, object]
) -> None:
    for text in finished_texts(runner, compiler, JsonSchema(json.dumps(schema))):
        jsonschema.validate(json.loads(text), schema)
