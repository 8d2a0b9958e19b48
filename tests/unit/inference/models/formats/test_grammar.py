"""What a format is compiled to, and what is refused with which words."""

import json

import pytest
from inference_svc.errors import InvalidField
from inference_svc.models.grammar import Form, Grammar, Grammars
from inference_svc.models.token_bytes import TokenBytes
from inference_svc.requests import Choice, JsonSchema, OutputFormat, Regex
from support.formats import grammars, pieces, spelled

NESTED = {"type": "object", "properties": {"a/b": {"type": "array", "items": {"uniqueItems": True}}}}
BAD: list[tuple[OutputFormat, str, str]] = [
    (JsonSchema("{"), "json_schema", "is not JSON: .* at line 1 column 2"),
    (JsonSchema("[" * 5000), "json_schema", "is not JSON that can be read"),
    (JsonSchema("NaN"), "json_schema", "is not JSON that can be read"),
    (JsonSchema("3"), "json_schema", "must be an object, true or false"),
    (JsonSchema("false"), "json_schema", "false allows no answer"),
    (JsonSchema('{"type": "strin"}'), "json_schema", "Invalid type: strin"),
    (JsonSchema(json.dumps(NESTED)), "json_schema", '"uniqueItems".*, at /properties/a~1b/items'),
    (
        JsonSchema('{"anyOf": [{"type": "null"}, {"type": "string", "pattern": "("}]}'),
        "json_schema",
        "unclosed group, at /anyOf/1",
    ),
    (JsonSchema('{"$ref": "http://elsewhere/x"}'), "json_schema", "elsewhere"),
    (JsonSchema('{"$ref": "#/$defs/x"}'), "json_schema", "/.defs/x"),
    (JsonSchema('{"not": {}, "x-guidance": {"lenient": true}}'), "json_schema", '"not"'),
    (JsonSchema('{"type": "integer", "minimum": 3, "maximum": 1}'), "json_schema", "greater than maximum"),
    (Regex("a(b"), "regex", "unclosed group, at character 1"),
    (Regex("é[z-a]"), "regex", "range.*, at character 2"),
    (Regex(r"^\d/\n(b"), "regex", "unclosed group, at character 6"),
    (Regex("a\n\n(b"), "regex", "unclosed group, at character 3"),
    (Regex("ab(?=c)"), "regex", "look-around.*, at character 2"),
    (Regex(r"(a)\1"), "regex", "backreferences.*, at character 3"),
    (Regex(r"a\b"), "regex", "inside a pattern are not supported"),
    (Regex(r"[^\s\S]"), "regex", "allows no text"),
    (Regex("()"), "regex", "allows no text"),
]


@pytest.fixture(scope="module")
def compiler() -> Grammars:
    return grammars()


def reads(grammar: Grammar, text: str) -> bool:
    read = grammar.read(spelled(text))
    return read.is_complete and read.fitting == len(text.encode())


@pytest.mark.parametrize(("bad", "field", "why"), BAD, ids=[f"{f}: {w}"[:40] for _, f, w in BAD])
def test_a_bad_format_is_refused_by_field_and_place(
    compiler: Grammars, bad: OutputFormat, field: str, why: str
) -> None:
    with pytest.raises(InvalidField, match=f"(?s){why}") as refused:
        compiler.compiled(bad)
    assert [violation.field for violation in refused.value.violations] == [f"work.format.{field}"]
    assert len(refused.value.message) < 500


@pytest.mark.parametrize(
    ("asked", "good", "bad"),
    [
        (Regex("ab*c"), ["ac", "abbbc"], ["", "a", "abcc", "xac"]),
        (Regex("^(a|b)$"), ["a", "b"], ["ab", "^a"]),
        (Regex(r"a\$"), ["a$"], ["a"]),
        (Regex(r"\d\w\s"), ["4_\t"], ["\u0664_\t", "4é\t", "4_\u00a0"]),
        (Regex("a/b"), ["a/b"], [r"a\/b"]),
        (Regex(".é😀"), ["xé😀"], ["é😀"]),
        (Choice(("yes", 'no "way"\n', "\\", "é😀")), ["yes", 'no "way"\n', "\\", "é😀"], ["ye", "no", ""]),
        (JsonSchema("true"), ["1", '{"a": [null]}'], ["{", "a"]),
        (JsonSchema('{"type": "object"}'), ["{}", '{\n  "a": 1\n}'], ["[]", " {}", "{} "]),
        (JsonSchema('{"type": "array", "items": {"type": "boolean"}}'), ["[]", "[ true,false ]"], ["[1]"]),
    ],
)
def test_a_format_allows_what_it_says_and_nothing_else(
    compiler: Grammars, asked: OutputFormat, good: list[str], bad: list[str]
) -> None:
    grammar = compiler.compiled(asked)
    assert [text for text in good if not reads(grammar, text)] == []
    assert [text for text in bad if reads(grammar, text)] == []


def test_white_space_in_json_has_an_end(compiler: Grammars) -> None:
    grammar = compiler.compiled(JsonSchema('{"type": "array", "items": {"type": "null"}}'))
    assert reads(grammar, "[" + " " * 32 + "]")
    assert grammar.read(spelled("[" + " " * 33)).fitting == 33


def test_a_reader_who_is_not_shown_the_first_space_gets_the_form_all_the_same() -> None:
    compiler = Grammars(TokenBytes(pieces(), strips_space=True))
    for asked, written in [
        (Regex("ab"), ["ab", " ab"]),
        (Regex(" ab"), ["  ab"]),
        (Regex("( a)?"), ["", " ", "  a"]),
        (Choice(("ab", " c")), ["ab", " ab", "  c"]),
        (JsonSchema('{"const": 1}'), ["1", " 1"]),
    ]:
        grammar = compiler.compiled(asked)
        tried = ["", " ", "ab", " ab", "  ab", " a", "  a", "c", " c", "  c", "1", " 1", "  1"]
        assert [text for text in tried if reads(grammar, text)] == written, asked


def test_a_special_token_is_no_text_even_where_it_is_spelled(compiler: Grammars) -> None:
    grammar = compiler.compiled(Regex("(<[0-9]+>|<end>)"))
    for special in (0, 1, 2, 3, 511):
        assert grammar.read([special]).fitting == 0
    assert reads(grammar, "<2>")


def test_a_format_is_compiled_once_and_few_are_kept(compiler: Grammars) -> None:
    first = compiler.compiled(Regex("kept"))
    assert compiler.compiled(Regex("kept")) is first
    for number in range(100):
        compiler.compiled(Regex(f"x{number}"))
    assert compiler.compiled(Regex("kept")) is not first


def goes_on(form: Form, text: str) -> bool:
    """As a served answer does: a mask before each token, and alone where the shared matcher gives up."""
    for token_id in spelled(text):
        form.matcher.compute_bitmask()
        if (form.fault and not form.go_on_alone()) or not form.take([token_id]):
            return False
    return True


def test_what_one_answer_uses_up_is_not_missed_by_another() -> None:
    """This pattern needs a new state of the lexer for nearly every text that it reads."""
    grammar = grammars(lexer_states=400).compiled(Regex("[ab]*a[ab]{12}"))
    before = Form(grammar)
    assert goes_on(before, "ab")
    greedy = Form(grammar)
    texts = [format(number, "012b").replace("0", "a").replace("1", "b") for number in range(0, 4096, 5)]
    assert not all(goes_on(greedy, text) for text in texts), "it had all that there is, and needed more"
    assert "too many states" in greedy.fault
    assert goes_on(Form(grammar), "abab")
    assert goes_on(before, "ba")
    assert before.taken_count == 4


HUNGRY: list[OutputFormat] = [
    Regex("(a?){2000}a{2000}"),
    Regex("((a{1,100}){1,100}){1,100}"),
    Regex("(.*a){50}b"),
    Regex("(x+x+)+y"),
    JsonSchema(
        json.dumps({"allOf": [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(14)]})
    ),
    JsonSchema('{"type": "array", "minItems": 100000, "items": {"type": "integer"}}'),
    JsonSchema('{"type": "string", "minLength": 1000000}'),
]


@pytest.mark.parametrize("asked", HUNGRY, ids=[str(asked)[:40] for asked in HUNGRY])
@pytest.mark.timeout(10)
def test_a_hungry_format_is_read_or_refused_and_never_hangs(compiler: Grammars, asked: OutputFormat) -> None:
    try:
        form = Form(compiler.compiled(asked))
    except InvalidField:
        return
    for _ in range(50):
        if not form.take(spelled("a")):
            break
        form.matcher.compute_bitmask()
