"""What sequences take of a cache that is given out in blocks, some of them held by several sequences. Pure."""

from collections.abc import Iterable

from inference_svc.engine.runner import Sharing
from inference_svc.engine.sequence import Sequence
from inference_svc.requests import Generation


class NothingShared:
    """The Sharing of a cache in which each slot has its own."""

    tokens_held_again = 0

    def tokens_held_with_others(self, slot: int) -> int:
        return 0

    def tokens_to_share(self, generation: Generation) -> int:
        return 0


class CacheRoom:
    """A sequence is charged whole blocks for all its tokens, computed or not, and blocks that several hold are charged
    once: while `free` is not below 0, no step can run out of blocks."""

    def __init__(self, token_count: int, block_tokens: int = 1, sharing: Sharing | None = None) -> None:
        if token_count % block_tokens:
            raise ValueError(f"{token_count} tokens are no whole blocks of {block_tokens}")
        self._token_count = token_count
        self._block_tokens = block_tokens
        self._sharing = sharing or NothingShared()
        self._still_held = 0  # tokens of slots that were left and are not closed, held with others

    def needed_by(self, sequence: Sequence) -> int:
        """Tokens of the blocks that it fills, or begins to, if it shares none of them."""
        return -(-len(sequence.ids) // self._block_tokens) * self._block_tokens

    def free(self, placed: Iterable[Sequence]) -> int:
        """Below 0 where the sequences that hold slots have outgrown the cache."""
        held = sum(self.needed_by(each) for each in placed)
        return self._token_count - held + self._sharing.tokens_held_again - self._still_held

    def shared_at_once(self, sequence: Sequence) -> int:
        """What of `needed_by` would be held by others already if it got a slot now."""
        return self._sharing.tokens_to_share(sequence.generation_so_far())

    def freed_by(self, sequence: Sequence) -> int:
        """What becomes free at least when this one leaves its slot."""
        assert sequence.slot is not None
        return self.needed_by(sequence) - self._sharing.tokens_held_with_others(sequence.slot)

    def leaves(self, sequence: Sequence) -> None:
        """It is about to leave its slot: what others hold of it does not become free."""
        self._still_held += self.needed_by(sequence) - self.freed_by(sequence)

    def closed(self) -> None:
        """All slots that were left are closed, or will be before anything else is asked."""
        self._still_held = 0
