"""Turns token ids into text that is never taken back.

What has been given out with tokens 0..i is a pure function of tokens 0..i (and of the stop strings), so a resumed
generation, whose ids are taken again, goes on with exactly the text that its reader does not have.
"""

from collections.abc import Sequence

from inference_svc.engine.runner import TextDecoder
from inference_svc.engine.stop_text import StopMatcher

_BROKEN = "\ufffd"
_UNFINISHED_TOKENS = 3  # most tokens that an unfinished character can stretch over: UTF-8 has up to 4 bytes
_LONGEST_WINDOW = 16  # tokens decoded again with a new one while nothing but broken bytes comes
_CONTEXT = 8  # of these, kept when the window is cut; as many are decoded again before it is cut in good times


class SilentTokens:
    """Which ids never show in text (special tokens). Shared by a model's requests; at most one entry an id."""

    def __init__(self, decoder: TextDecoder) -> None:
        self._decoder = decoder
        self._known: dict[int, bool] = {}

    def __contains__(self, token_id: int) -> bool:
        silent = self._known.get(token_id)
        if silent is None:
            # Twice, because some tokenizers strip a space at the very beginning and a token may be just that.
            silent = self._known[token_id] = not self._decoder.decode((token_id, token_id))
        return silent


class TextAssembler:
    """One request's text. Each token costs a short decode, now and then two, never one of the whole answer.

    The decoder is asked for a window: some tokens whose text is out already, for context, and the newest ones. Text
    that ends in U+FFFD may be a character that the next tokens finish, and is held back; a token further back than a
    character can stretch no longer holds anything back.
    """

    def __init__(self, decoder: TextDecoder, silent: SilentTokens, stop_strings: Sequence[str] = ()) -> None:
        self._decoder = decoder
        self._silent = silent
        self._stop = StopMatcher(stop_strings)
        self._window: list[int] = []
        self._fresh = 0  # index in the window of the first token whose text is not wholly out
        self._text = ""  # of the window
        self._shown = 0  # characters of it that are out

    @property
    def stop_string(self) -> str | None:
        """The stop string that was met; nothing may be taken after that."""
        return self._stop.matched

    def take(self, token_id: int, *, guarded: bool = False) -> str:
        """The text that became certain with this token. When `guarded` no stop string ends the answer here."""
        if token_id in self._silent:
            return ""
        self._window.append(token_id)
        self._text = self._decoder.decode(self._window)
        certain = self._certain_length()
        fresh = self._text[self._shown : certain]
        self._shown = max(self._shown, certain)
        self._slide()
        return self._stop.take(fresh, guarded) if fresh else ""

    def finish(self, *, guarded: bool = False) -> str:
        """The text still held back, when the answer ends for another reason than a stop string. An unfinished
        character shows as U+FFFD. A stop string may still complete with it."""
        out = self._stop.take(self._text[self._shown :], guarded)
        self._shown = len(self._text)
        return out if self._stop.matched else out + self._stop.held

    def _certain_length(self) -> int:
        if not self._text.endswith(_BROKEN):
            return len(self._text)
        old = len(self._window) - _UNFINISHED_TOKENS
        if old <= self._fresh:
            return self._shown
        return max(self._shown, _common_length(self._decoder.decode(self._window[:old]), self._text))

    def _slide(self) -> None:
        """Keep the window short: what stood before the newest complete text is no longer needed as context."""
        if self._shown == len(self._text) and self._text:
            if self._fresh >= _CONTEXT:
                self._window = self._window[self._fresh :]
                self._text = self._decoder.decode(self._window)
                self._shown = len(self._text)
            self._fresh = len(self._window)
        elif len(self._window) >= _LONGEST_WINDOW:
            unshown = len(self._text) - self._shown
            self._window = self._window[-_CONTEXT:]
            self._text = self._decoder.decode(self._window)
            self._shown = max(0, len(self._text) - unshown)
            self._fresh = max(0, min(self._fresh, _CONTEXT - _UNFINISHED_TOKENS))


def _common_length(one: str, other: str) -> int:
    for length, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return length
    return min(len(one), len(other))
