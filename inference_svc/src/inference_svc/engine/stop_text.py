"""Where a stop string ends an answer: a pure function of the text so far, however it was cut into tokens."""

from collections.abc import Sequence


class StopMatcher:
    """Reads text piece by piece and says how much of it is certain.

    A match is what completes first, character by character; of those that complete together, the longest. One
    Knuth-Morris-Pratt automaton a stop string: work is bounded by characters times strings, and an automaton's state
    is how many of the last characters may begin its string, which is what must be held back.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._strings = tuple(stop_strings)
        self._fallbacks = tuple(_fallbacks(string) for string in self._strings)
        self._states = [0] * len(self._strings)
        self._held = ""
        self.matched: str | None = None

    @property
    def held(self) -> str:
        """Text that may still turn out to begin a stop string."""
        return self._held

    def take(self, text: str, guarded: bool) -> str:
        """The text that became certain. When `guarded`, a stop string that completes here is text like any other.
        Nothing may be taken after a match."""
        if not self._strings:
            return text
        pending = self._held + text
        for position, character in enumerate(text, start=len(self._held) + 1):
            completed = self._advance(character)
            if completed and not guarded:
                self.matched = completed
                self._held = ""
                return pending[: position - len(completed)]
        keep = max(self._states)
        self._held = pending[len(pending) - keep :]
        return pending[: len(pending) - keep]

    def _advance(self, character: str) -> str:
        """The longest string completed by this character, empty for none."""
        longest = ""
        for number, string in enumerate(self._strings):
            fallback, state = self._fallbacks[number], self._states[number]
            while state and string[state] != character:
                state = fallback[state - 1]
            if string[state] == character:
                state += 1
            if state == len(string):
                longest = max(longest, string, key=len)
                state = fallback[state - 1]
            self._states[number] = state
        return longest


def _fallbacks(string: str) -> list[int]:
    """For each prefix, the length of the longest shorter prefix that it ends with."""
    table = [0] * len(string)
    length = 0
    for position in range(1, len(string)):
        while length and string[position] != string[length]:
            length = table[length - 1]
        if string[position] == string[length]:
            length += 1
        table[position] = length
    return table
