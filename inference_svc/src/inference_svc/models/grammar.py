"""Formats compiled for one model's tokens, and where an answer stands in one.

A format is compiled once and kept; every answer copies it. Copies share what the library has learnt of the format (its
lexer's states), which makes them fast, and which is bounded: one answer may use it up for all. So an answer whose
shared copy fails goes on in one of its own, and fails only if that does too. What an answer may say therefore never
depends on others.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from inference_svc.errors import InvalidField
from inference_svc.models.grammar_text import field_of, grammar_text, refusal
from inference_svc.models.token_bytes import TokenBytes
from inference_svc.requests import FormatReading, OutputFormat

_MOST_KEPT = 64  # formats
_MOST_KEPT_BYTES = 4 << 20  # of their texts
_LEXER_STATES = 50_000  # that one format may take, 1 to 2 KB each
_GRAMMAR_SIZE = 200_000  # symbols


class Grammars:
    """The formats of one model. May be called from any thread.

    The library knows one token more than the model: the end of an answer, which the masks here leave to the request.
    Its own bounds on time, about 20 ms to begin and 15 ms a mask, are kept; those on memory are set.
    """

    def __init__(self, tokens: TokenBytes, lexer_states: int = _LEXER_STATES) -> None:
        pieces = list(tokens.pieces)
        self._strips_space = tokens.strips_space
        self._tokenizer = LLTokenizer(_Words(pieces))  # type: ignore[arg-type]  # it wants the attributes, not the class
        self._limits = LLParserLimits(
            max_lexer_states=lexer_states, max_grammar_size=_GRAMMAR_SIZE, verbose_errors=False
        )
        self._vocabulary_size = len(pieces)
        self._kept: OrderedDict[OutputFormat, Grammar] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def compiled(self, output_format: OutputFormat) -> "Grammar":
        """Raises InvalidField naming the field and the place."""
        with self._lock:
            known = self._kept.get(output_format)
            if known is not None:
                self._kept.move_to_end(output_format)
                return known
        made = self._compile(output_format)
        with self._lock:
            if output_format not in self._kept:
                self._kept[output_format] = made
                self._kept_bytes += len(made.text)
            while len(self._kept) > _MOST_KEPT or self._kept_bytes > _MOST_KEPT_BYTES:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1].text)
        return made

    def _compile(self, output_format: OutputFormat) -> "Grammar":
        text = grammar_text(output_format, self._strips_space)
        grammar = Grammar(self._tokenizer, self._limits, text, self._vocabulary_size)
        fault = grammar.fault
        if fault:
            raise refusal(output_format, fault)
        if not grammar.can_begin():
            raise InvalidField.of_field(field_of(output_format), "allows no text that this model can write")
        return grammar


class Grammar:
    """One compiled format. `text` is what the library reads."""

    def __init__(self, tokenizer: LLTokenizer, limits: LLParserLimits, text: str, vocabulary_size: int) -> None:
        self.text = text
        self.vocabulary_size = vocabulary_size
        self._tokenizer = tokenizer
        self._limits = limits
        self._source = LLMatcher.grammar_from_lark(text)
        self._shared = self.own_matcher()

    @property
    def fault(self) -> str:
        return self._shared.get_error()

    def can_begin(self) -> bool:
        matcher = self._shared.deep_copy()
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        return not matcher.is_error() and mask & ((1 << self.vocabulary_size) - 1) != 0

    def shared_matcher(self) -> LLMatcher:
        return self._shared.deep_copy()

    def own_matcher(self) -> LLMatcher:
        """Compiled anew: shares nothing with any other."""
        return LLMatcher(self._tokenizer, self._source, log_level=0, limits=self._limits)

    def renew(self) -> None:
        """What copies have shared so far is left to them."""
        self._shared = self.own_matcher()

    def read(self, token_ids: Sequence[int]) -> FormatReading:
        form = Form(self)
        fitting = form.take(token_ids)
        return FormatReading(fitting, form.is_complete, form.is_over)


class Form:
    """Where one answer stands in its format. One thread at a time."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self.matcher = grammar.shared_matcher()
        self._is_shared = True
        self._taken: list[int] = []

    @property
    def taken_count(self) -> int:
        return len(self._taken)

    @property
    def fault(self) -> str:
        """Why nothing more can be said of this answer: it became too complex. "" while all is well."""
        return self.matcher.get_error().partition("\n")[0]

    @property
    def is_complete(self) -> bool:
        return not self.matcher.is_error() and self.matcher.is_accepting()

    @property
    def is_over(self) -> bool:
        """Complete, and nothing can follow."""
        return self.is_complete and self.matcher.is_stopped()

    def take(self, token_ids: Sequence[int]) -> int:
        """How many of the ids fit, from the first on; these are taken."""
        fitting = self._fitting(token_ids)
        self._taken += token_ids[:fitting]
        return fitting

    def rewind(self, count: int) -> None:
        """Back to where `count` ids were taken."""
        self._taken = self._taken[:count]
        self._begin(self._grammar.shared_matcher(), is_shared=True)

    def go_on_alone(self) -> bool:
        """After a fault: in a matcher of its own. Whether that helped."""
        if self._is_shared:
            self._grammar.renew()
            self._begin(self._grammar.own_matcher(), is_shared=False)
        return not self.fault

    def _begin(self, matcher: LLMatcher, *, is_shared: bool) -> None:
        self.matcher = matcher
        self._is_shared = is_shared
        fitting = self._fitting(self._taken)
        assert fitting == len(self._taken) or self.fault

    def _fitting(self, token_ids: Sequence[int]) -> int:
        fitting = self.matcher.try_consume_tokens(list(token_ids))
        if self.fault and self.go_on_alone():
            fitting = self.matcher.try_consume_tokens(list(token_ids))
        return fitting


class _Words:
    """What the library reads of a tokenizer. It asks for no tokenisation where nothing is forced."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, pieces: list[bytes | None]) -> None:
        self.eos_token_id = len(pieces)
        self.tokens = [b"<%d>" % token_id if piece is None else piece for token_id, piece in enumerate(pieces)]
        self.tokens.append(b"<end>")
        self.special_token_ids = [token_id for token_id, piece in enumerate(pieces) if piece is None]
        self.special_token_ids.append(len(pieces))

    def __call__(self, text: bytes | str) -> list[int]:
        raise NotImplementedError("a grammar forced a text to be tokenised")
