"""The bytes of tokens, for both families of tokenizers, and no guess where they cannot be told."""

from pathlib import Path
from typing import Any

import pytest
from inference_svc.models.defaults import default_folder
from inference_svc.models.grammar import Grammars
from inference_svc.models.token_bytes import TokenBytes, UnreadableTokens, token_bytes
from inference_svc.requests import Choice, JsonSchema, Regex
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

HARD = 'Ünïcode "quotes"\n\ttabs\x00 and 😀 {"a": [1, 2.5e3]}  two spaces'


def sentencepiece() -> Tokenizer:
    words = ["▁", "▁the", "▁a", "▁b", "a", "b", "ab", '{"', "▁▁", "é"]
    vocabulary = {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
    vocabulary |= {"<unk>": 0, "<s>": 1, "</s>": 2} | {word: 259 + at for at, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.add_tokens([AddedToken("<tool>", special=False)])
    return made


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = default_folder("tiny-chat", tmp_path_factory.mktemp("models"), print)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def written(found: TokenBytes, ids: list[int]) -> str:
    text = b"".join(found.pieces[token_id] or b"" for token_id in ids).decode()
    return text.removeprefix(" ") if found.strips_space else text


def encoded(fast: Any, text: str) -> list[int]:
    return list(fast.encode(text, add_special_tokens=False).ids)


def test_a_byte_level_vocabulary_is_read_byte_for_byte(byte_level: Tokenizer) -> None:
    size = byte_level.get_vocab_size()
    found = token_bytes(byte_level, size + 9)
    assert not found.strips_space
    assert written(found, encoded(byte_level, HARD)) == HARD
    assert {piece for piece in found.pieces if piece and len(piece) == 1} == {bytes([byte]) for byte in range(256)}
    nothing = [token_id for token_id, piece in enumerate(found.pieces) if piece is None]
    assert nothing == [0, 1, 2, *range(size, size + 9)]


def test_a_sentencepiece_vocabulary_is_read_byte_for_byte() -> None:
    fast = sentencepiece()
    found = token_bytes(fast, fast.get_vocab_size())
    assert found.strips_space
    assert written(found, encoded(fast, HARD)) == HARD
    assert found.pieces[:3] == [None, None, None]
    assert found.pieces[fast.token_to_id("<tool>")] == b"<tool>"
    assert found.pieces[fast.token_to_id("▁the")] == b" the"
    assert found.pieces[3 + 0xE9] == b"\xe9"


@pytest.mark.parametrize("text", ["ab", " a b", "é\n", '{"a": [true]}'])
def test_what_a_sentencepiece_tokenizer_writes_fits_the_text_that_it_shows(text: str) -> None:
    fast = sentencepiece()
    compiler = Grammars(token_bytes(fast, fast.get_vocab_size()))
    ids = encoded(fast, text)
    assert fast.decode(ids) == text
    formats = [Choice((text,)), Regex(text.replace("{", r"\{").replace("[", r"\["))]
    for asked in [*formats, JsonSchema("{}")] if text.startswith("{") else formats:
        read = compiler.compiled(asked).read(ids)
        assert (read.fitting, read.is_complete) == (len(ids), True)


def test_a_vocabulary_that_cannot_be_told_is_refused() -> None:
    plain = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with pytest.raises(UnreadableTokens, match="neither byte-level nor SentencePiece's"):
        token_bytes(plain, 2)
    odd = sentencepiece()
    odd.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace("a", "b"), decoders.Fuse()])
    with pytest.raises(UnreadableTokens, match=r"token \d+ writes"):
        token_bytes(odd, odd.get_vocab_size())


def test_a_model_narrower_than_its_tokenizer_is_read_as_far_as_it_goes(byte_level: Tokenizer) -> None:
    assert len(token_bytes(byte_level, 300).pieces) == 300
