"""What each token of a vocabulary writes, as bytes: what a grammar is matched against.

Two families of tokenizers tell it: byte-level ones, which spell every byte as one printable character (GPT-2's table),
and those that write a space as U+2581 and other bytes as `<0xXX>` (SentencePiece's way).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SAMPLE = 512  # tokens whose bytes are compared with what the tokenizer itself writes


class UnreadableTokens(Exception):
    """The bytes of this tokenizer's tokens cannot be told."""


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """By token id; None for special tokens and ids without a token, which are never part of a text. `strips_space`: the
    first space of a text is not shown."""

    pieces: Sequence[bytes | None]
    strips_space: bool = False


def token_bytes(fast: Any, vocabulary_size: int) -> TokenBytes:
    """Of a tokenizer of the tokenizers package, for a model whose logits are `vocabulary_size` wide. Raises
    UnreadableTokens."""
    kinds = _decoder_kinds(fast)
    added = dict(fast.get_added_tokens_decoder())
    pieces: list[bytes | None] = [None] * vocabulary_size
    spell = _byte_level() if "ByteLevel" in kinds else None
    if spell is None and not ({"Metaspace", "ByteFallback"} & kinds):
        raise UnreadableTokens(f"its decoder is neither byte-level nor SentencePiece's: {', '.join(sorted(kinds))}")
    for text, token_id in fast.get_vocab(with_added_tokens=True).items():
        if token_id >= vocabulary_size:
            continue
        if token_id in added:
            pieces[token_id] = None if added[token_id].special else added[token_id].content.encode()
        else:
            pieces[token_id] = _of_byte_level(text, spell) if spell else _of_pieces(text, "ByteFallback" in kinds)
    found = TokenBytes(pieces, _strips_space(fast, pieces))
    _compare(fast, found)
    return found


def _decoder_kinds(fast: Any) -> set[str]:
    if fast.decoder is None:
        return set()
    described = json.loads(fast.decoder.__getstate__())
    return {str(each.get("type")) for each in [described, *described.get("decoders", [])]}


def _byte_level() -> dict[str, int]:
    """Printable characters stand for themselves, the other bytes for characters from U+0100 on, in order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + rank): byte for rank, byte in enumerate(others)}


def _of_byte_level(text: str, spell: Mapping[str, int]) -> bytes:
    try:
        return bytes(spell[character] for character in text)
    except KeyError:
        return text.encode()


def _of_pieces(text: str, has_byte_pieces: bool) -> bytes:
    byte = _BYTE_PIECE.fullmatch(text) if has_byte_pieces else None
    return bytes([int(byte[1], 16)]) if byte else text.replace("\u2581", " ").encode()


def _strips_space(fast: Any, pieces: Sequence[bytes | None]) -> bool:
    for token_id, piece in enumerate(pieces):
        if piece and len(piece) > 1 and piece[:1] == b" " and piece[1:].isalpha():
            return not fast.decode([token_id]).startswith(" ")
    return False


def _compare(fast: Any, found: TokenBytes) -> None:
    """Raises where the tokenizer writes something else than the bytes say."""
    for token_id, piece in _sample(found.pieces):
        text = piece.decode("utf-8", errors="replace")
        if found.strips_space and text.startswith(" "):
            text = text[1:]
        written = fast.decode([token_id], skip_special_tokens=True)
        if written != text and "\ufffd" not in (*text, *written):
            raise UnreadableTokens(f"token {token_id} writes {written[:20]!r}, not {text[:20]!r}")


def _sample(pieces: Sequence[bytes | None]) -> Iterator[tuple[int, bytes]]:
    for token_id in range(0, len(pieces), max(1, len(pieces) // _SAMPLE)):
        piece = pieces[token_id]
        if piece is not None:
            yield token_id, piece
