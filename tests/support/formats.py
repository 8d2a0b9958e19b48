"""A small vocabulary with words in it, and formats over it."""

import itertools

from inference_svc.models.grammar import Grammars
from inference_svc.models.token_bytes import TokenBytes

VOCABULARY = 512  # as wide as the logits of the tiny models
END = 2
FIRST_BYTE = 4  # the id of byte 0; below are special tokens


def pieces() -> list[bytes | None]:
    """Special tokens, every byte, and words of several bytes."""
    words = [a + b for a, b in itertools.product(("", " ", '"', "{", "ab", "é", "12"), ("a", "ab", '":', "}", "true"))]
    made = [None] * FIRST_BYTE + [bytes([byte]) for byte in range(256)] + [word.encode() for word in words]
    return made + [None] * (VOCABULARY - len(made))


def grammars(lexer_states: int = 50_000) -> Grammars:
    return Grammars(TokenBytes(pieces()), lexer_states)


def spelled(text: str) -> list[int]:
    """The ids of the text's single bytes."""
    return [FIRST_BYTE + byte for byte in text.encode()]


def text_of(token_ids: list[int]) -> str:
    written = pieces()
    return b"".join(written[token_id] or b"" for token_id in token_ids).decode()
