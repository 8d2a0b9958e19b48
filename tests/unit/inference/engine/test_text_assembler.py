"""Text that comes out piece by piece is the text of everything, cut exactly where a stop string begins."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from inference_svc.engine.text_assembler import SilentTokens, TextAssembler
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = [
    "héllo wörld",
    "日本語のテキスト",
    "😀 emoji 👩‍👩‍👧 family",
    "  two  spaces\n\ttabs",
    "na\u0308ive �",
    "stop stopper st",
]


class Bytes:
    """Ids below 256 are bytes, then pairs of them from a table, then special tokens, which show as nothing."""

    def __init__(self, pairs: Sequence[bytes] = ()) -> None:
        self.pieces = [bytes([n]) for n in range(256)] + list(pairs)
        self.longest = 0

    def decode(self, token_ids: Sequence[int]) -> str:
        self.longest = max(self.longest, len(token_ids))
        return b"".join(self.pieces[i] for i in token_ids if i < len(self.pieces)).decode("utf-8", errors="replace")

    def token_text(self, token_id: int) -> str:
        return self.decode([token_id])


SPECIAL = 999
PAIRS = ["é".encode()[1:] + b" ", b"\xf0\x9f", b"\x98\x80", b" s", b"\xff\xfe", "€".encode()]
token_lists = st.lists(
    st.one_of(
        st.integers(0, 255),
        st.integers(256, 255 + len(PAIRS)),
        st.sampled_from([0xF0, 0x9F, 0x98, 0x80, 0xE2, 0x82, 0xAC, 0xC3, 0xA9, SPECIAL, *b"stop "]),
    ),
    max_size=60,
)


def pieces_of(decoder, ids: Sequence[int], stops: Sequence[str] = (), guarded: int = 0) -> tuple[list[str], str | None]:
    """The text given out with each token, the rest at the end with the last; and the stop string met."""
    assembler = TextAssembler(decoder, SilentTokens(decoder), stops)
    pieces: list[str] = []
    for index, token_id in enumerate(ids):
        pieces.append(assembler.take(token_id, guarded=index < guarded))
        if assembler.stop_string is not None:
            return pieces, assembler.stop_string
    pieces.append(assembler.finish())
    return pieces, assembler.stop_string


def first_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The rule itself: what completes first, the longest of these."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            stop = max(met, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(token_lists)
@example([0xFF] * 50 + [0xE2, 0x82, 0xAC])
@example([0xE2, SPECIAL, SPECIAL, SPECIAL, SPECIAL, 0x82, SPECIAL, 0xAC])
@example([0xF0] * 40 + [0x9F, 0x98, 0x80])
@settings(max_examples=300)
def test_the_pieces_together_are_the_text_of_all_tokens(ids):
    decoder = Bytes(PAIRS)
    pieces, _ = pieces_of(decoder, ids)
    assert "".join(pieces) == decoder.decode(ids)


@given(token_lists, st.lists(st.text("stop é\n", min_size=1, max_size=5), min_size=1, max_size=4))
@settings(max_examples=300)
def test_an_answer_is_cut_at_the_stop_string_that_completes_first(ids, stops):
    decoder = Bytes(PAIRS)
    pieces, met = pieces_of(decoder, ids, stops)
    assert ("".join(pieces), met) == first_stop(decoder.decode(ids), stops)


@given(st.lists(st.sampled_from("stop "), max_size=40), st.sampled_from([("stop",), ("st", "op s"), ("s", "stop")]))
@settings(max_examples=300)
def test_no_part_of_a_stop_string_is_given_out_before_it_is_certain(letters, stops):
    decoder = Bytes()
    pieces, met = pieces_of(decoder, [ord(letter) for letter in letters], stops)
    out = ""
    for piece, read in zip(pieces, range(1, len(letters) + 1), strict=False):
        out += piece
        held = "".join(letters[:read])[len(out) :]
        assert met is not None or held == "" or any(stop.startswith(held) and stop != held for stop in stops)


@given(
    st.text("ab", max_size=30),
    st.integers(0, 30),
    st.sampled_from([("ab",), ("aab",), ("aab", "bbb"), ("abab", "babb")]),
)
def test_a_stop_string_that_completes_among_the_guarded_tokens_is_text(text, guarded, stops):
    pieces, met = pieces_of(Bytes(), list(text.encode()), stops, guarded)
    for end in range(guarded + 1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            assert met == longest
            assert "".join(pieces) == text[: end - len(longest)]
            return
    assert met is None
    assert "".join(pieces) == text


@given(token_lists)
@settings(max_examples=100)
def test_no_decode_is_longer_than_a_few_tokens(ids):
    decoder = Bytes(PAIRS)
    pieces_of(decoder, ids * 5)
    assert decoder.longest <= 24


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<end>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    words = ["▁", "▁stop", "▁two", "spaces", "h", "e", "l", "o", "é", "ö", "s", "t", "p", "e", "r", "w", "d", "\n"]
    vocabulary = {f"<0x{n:02X}>": n for n in range(256)} | {w: 256 + n for n, w in enumerate(dict.fromkeys(words))}
    vocabulary["<unk>"] = 600
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer


class Real:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def token_text(self, token_id: int) -> str:
        return self.decode([token_id])


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_real_tokenizers_give_their_own_text_piece_by_piece(make):
    tokenizer = make()
    for text in [*TEXTS, "".join(TEXTS), "😀" * 30]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        pieces, _ = pieces_of(Real(tokenizer), ids)
        assert "".join(pieces) == tokenizer.decode(ids)
        assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@given(st.lists(st.integers(0, 399), max_size=60))
@settings(max_examples=100)
def test_a_byte_level_tokenizer_may_be_fed_anything(ids):
    decoder = Real(BYTE_LEVEL)
    assert "".join(pieces_of(decoder, ids)[0]) == decoder.decode(ids)


BYTE_LEVEL = byte_level()
