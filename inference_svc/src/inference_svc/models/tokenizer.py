"""A model's own way of reading and writing text, safe to use from any thread.

Works on the fast tokenizer underneath transformers' wrapper: the wrapper sets truncation and padding on it call by
call, which threads would see of each other. Here both are switched off once and nothing is changed afterwards.
"""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from inference_svc.errors import InvalidField
from inference_svc.models.token_bytes import TokenBytes, token_bytes
from inference_svc.requests import Message


class FastTokenizer:
    """`wrapper` is a transformers fast tokenizer that nobody else uses from here on.

    `has_type_ids` tells whether the model takes token type ids. `prompts` are the texts that the model's configuration
    puts before inputs, by name; "" is the default prompt.
    """

    def __init__(
        self,
        wrapper: Any,
        *,
        end_token_ids: frozenset[int],
        has_type_ids: bool,
        prompts: Mapping[str, str],
    ) -> None:
        self._wrapper = wrapper
        self._fast = wrapper.backend_tokenizer
        self._fast.no_truncation()
        self._fast.no_padding()
        self._end_token_ids = end_token_ids
        self._has_type_ids = has_type_ids
        self._prompts = {"": "", **prompts}
        self._anchor = self._anchor_ids()
        self._special_texts = _any_of(
            token.content for token in self._fast.get_added_tokens_decoder().values() if token.special
        )

    @property
    def vocabulary_size(self) -> int:
        return int(self._fast.get_vocab_size(with_added_tokens=True))

    @property
    def end_token_ids(self) -> frozenset[int]:
        return self._end_token_ids

    @property
    def has_chat_template(self) -> bool:
        return self._wrapper.chat_template is not None

    def encode_chat(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        """The template writes the special tokens that it wants, so none are added around it. Those that a message
        itself spells out are read as plain characters: who writes a message cannot end it and begin another's."""
        if not self.has_chat_template:
            raise InvalidField.of_field("prompt.chat", "the model has no chat template; send a text prompt")
        spelled = _SpelledOut(self._special_texts)
        turns = [{"role": spelled.hide(turn.role), "content": spelled.hide(turn.content)} for turn in messages]
        try:
            text = self._wrapper.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
        except (TemplateError, ValueError, TypeError, LookupError) as refused:
            raise InvalidField.of_field(
                "prompt.chat.messages", f"the model's chat template refuses them: {refused}"
            ) from refused
        parts = spelled.parts(text)
        pieces = list({piece for part in parts for piece in part})
        encoded = self._fast.encode_batch_fast(pieces, add_special_tokens=False)
        ids_of_piece = {piece: one.ids for piece, one in zip(pieces, encoded, strict=True)}
        ids_of_part = {part: [id_ for piece in part for id_ in ids_of_piece[piece]] for part in set(parts)}
        return [id_ for part in parts for id_ in ids_of_part[part]]

    def encode_text(self, text: str) -> list[int]:
        return list(self._encoded(text).ids)

    def encode_pair(self, text: str, text_pair: str | None) -> tuple[list[int], list[int] | None]:
        return self._told(self._encoded(text if text_pair is None else (text, text_pair)))

    def _encoded(self, given: str | tuple[str, str], *, special: bool = True) -> Any:
        """One text or pair. As a batch of one: only batches are encoded with the interpreter's lock released, and a
        MiB of text takes a second, which every answer under way and every heartbeat would wait for."""
        return self._fast.encode_batch_fast([given], add_special_tokens=special)[0]

    def truncate_pair(self, text: str, text_pair: str | None, limit: int) -> tuple[list[int], list[int] | None]:
        first = self._encoded(text, special=False)
        second = None if text_pair is None else self._encoded(text_pair, special=False)
        room = max(limit - int(self._fast.num_special_tokens_to_add(second is not None)), 0)
        first.truncate(room)
        if second is not None:
            second.truncate(room - len(first.ids))
        return self._told(self._fast.post_process(first, second, True))

    def prompt_for(self, prompt_name: str) -> str:
        try:
            return self._prompts[prompt_name]
        except KeyError:
            names = ", ".join(sorted(name for name in self._prompts if name)) or "none"
            raise InvalidField.of_field("prompt_name", f"the model has no such prompt; it has: {names}") from None

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self._fast.decode(list(token_ids), skip_special_tokens=True))

    def token_text(self, token_id: int) -> str:
        """Read behind a token that is known, because some decoders drop the space before a text's first word."""
        whole = self._fast.decode([*self._anchor, token_id], skip_special_tokens=False)
        before = self._fast.decode(self._anchor, skip_special_tokens=False)
        if self._anchor and whole.startswith(before):
            return str(whole[len(before) :])
        return str(self._fast.decode([token_id], skip_special_tokens=False))

    def token_bytes(self, vocabulary_size: int) -> TokenBytes:
        """Raises UnreadableTokens."""
        return token_bytes(self._fast, vocabulary_size)

    def _anchor_ids(self) -> list[int]:
        return list(self._encoded("a", special=False).ids)

    def _told(self, encoding: Any) -> tuple[list[int], list[int] | None]:
        return list(encoding.ids), list(encoding.type_ids) if self._has_type_ids else None


class _SpelledOut:
    """Special tokens spelled out in the messages of one conversation, kept aside while a template is rendered."""

    def __init__(self, special_texts: re.Pattern[str]) -> None:
        self._special_texts = special_texts
        self._found: dict[str, int] = {}
        self._nonce = secrets.token_hex(8)  # nobody can write the stand-in's name into a message

    def hide(self, text: str) -> str:
        return self._special_texts.sub(self._stand_in, text)

    def parts(self, text: str) -> list[tuple[str, ...]]:
        """The text in parts, each of the pieces to encode one by one: what was hidden comes back in single characters,
        which spell no token. Equal parts are many where tokens are spelled out many times."""
        if not self._found:
            return [(text,)]
        hidden = [tuple(found) for found in self._found]
        return [
            hidden[int(part)] if place % 2 else (part,)
            for place, part in enumerate(re.split(rf"<{self._nonce}-(\d+)>", text))
            if part
        ]

    def _stand_in(self, match: re.Match[str]) -> str:
        return f"<{self._nonce}-{self._found.setdefault(match.group(), len(self._found))}>"


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Longest first; with no texts, a pattern that matches nothing."""
    ordered = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
