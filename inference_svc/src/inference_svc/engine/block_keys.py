"""What names a block of a sequence: its tokens, all that come before them, and whose they are.

Equal keys mean equal keys and values in a cache, so the key of a block also tells what else these depend on: where a
runner computes tokens of the prompt and of the answer in different ways, a block with tokens of the answer is another
one for each prompt length.
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

_KEY_BYTES = 32  # collisions are as likely as those of the hash: never seen


class BlockKeys:
    """The keys of one sequence's full blocks, first to last, kept up as it grows."""

    def __init__(self, tenant: str, block_tokens: int, exact_prompt_length: int | None = None) -> None:
        """Tenants share nothing. With `exact_prompt_length`, blocks that end behind it have keys of their own."""
        self.keys: list[bytes] = []
        self._block_tokens = block_tokens
        self._prompt_length = exact_prompt_length
        self._last = blake2b(tenant.encode(), digest_size=_KEY_BYTES, person=b"seam prefix").digest()

    def follow(self, token_ids: Sequence[int]) -> None:
        """`token_ids` are the whole sequence so far, of which earlier calls saw the beginning."""
        size = self._block_tokens
        for start in range(len(self.keys) * size, len(token_ids) - size + 1, size):
            end = start + size
            told = blake2b(self._last, digest_size=_KEY_BYTES)
            told.update(array("q", token_ids[start:end]).tobytes())
            if self._prompt_length is not None and end > self._prompt_length:
                told.update(self._prompt_length.to_bytes(8, "little"))
            self._last = told.digest()
            self.keys.append(self._last)
