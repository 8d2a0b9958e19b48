"""Which blocks of a cache are free, in use, or kept because their content may be wanted again. Pure: it never sees the
cache itself.

A block is free; or taken, by one holder who writes it; or published under the key of its content, then read by any
number of holders and written by none. A published block that nobody holds stays cached until its place is needed: the
one that was let go of longest ago goes first.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass


class NoFreeBlocks(Exception):
    """All blocks are held."""


@dataclass(frozen=True, slots=True)
class PrefixCounts:
    """`asked_tokens` are those of sequences that looked for their beginning, `hit_tokens` those found of them."""

    asked_tokens: int = 0
    hit_tokens: int = 0
    evicted_blocks: int = 0
    free_blocks: int = 0
    cached_blocks: int = 0  # published, held or not
    held_blocks: int = 0


class BlockPool:
    """Blocks are numbers below `block_count`. A holder releases each block as often as it was given it."""

    def __init__(self, block_count: int, block_tokens: int) -> None:
        if block_count < 0 or block_tokens < 1:
            raise ValueError(f"{block_count} blocks of {block_tokens} tokens: there must be at least 0 of at least 1")
        self.block_count = block_count
        self.block_tokens = block_tokens
        self._free = list(range(block_count - 1, -1, -1))
        self._holders = [0] * block_count
        self._by_key: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # published and held by nobody, longest ago first
        self._asked_tokens = self._hit_tokens = self._evicted = 0

    def match(self, keys: Sequence[bytes], asked_tokens: int = 0) -> list[int]:
        """As `hold`, for a sequence that will not compute what is found. `asked_tokens` is for the counters: 0 where
        the same sequence asks again."""
        found = self.hold(keys)
        self._asked_tokens += asked_tokens
        self._hit_tokens += len(found) * self.block_tokens
        return found

    def hold(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of the longest run of leading `keys` that are published, each now held once more."""
        found = []
        for key in keys:
            block = self._by_key.get(key)
            if block is None:
                break
            found.append(block)
            self._holders[block] += 1
            self._idle.pop(block, None)
        return found

    def has(self, key: bytes) -> bool:
        return key in self._by_key

    def holders(self, block: int) -> int:
        return self._holders[block]

    @property
    def available(self) -> int:
        """Blocks that `take` could give now."""
        return len(self._free) + len(self._idle)

    def take(self, count: int) -> list[int]:
        """Blocks to write, held by the caller alone. Raises NoFreeBlocks, and then has taken none."""
        if count > self.available:
            raise NoFreeBlocks(f"{count} blocks are wanted and {self.available} of {self.block_count} are not held")
        taken = []
        for _ in range(count):
            block = self._free.pop() if self._free else self._evict()
            self._holders[block] = 1
            taken.append(block)
        return taken

    def publish(self, block: int, key: bytes) -> bool:
        """A block that its one holder has filled can be found from now on, and must not be written any more. False
        where the content is published already, in another block: this one stays its holder's own."""
        if self._holders[block] != 1 or block in self._key_of:
            raise ValueError(f"block {block} is not held by one alone, or is published already")
        if key in self._by_key:
            return False
        self._by_key[key] = block
        self._key_of[block] = key
        return True

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of blocks, given in the order of their sequence: its later ones are evicted before its earlier ones,
        without which they could not be found. Raises ValueError for a block that is not held, releasing none."""
        for block, times in Counter(blocks).items():
            if not 0 <= block < self.block_count or self._holders[block] < times:
                raise ValueError(f"block {block} is released and not held")
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._key_of:
                self._idle[block] = None
            else:
                self._free.append(block)

    def clear(self) -> None:
        """What is cached and held by nobody is forgotten."""
        while self._idle:
            self._free.append(self._evict())

    def counts(self) -> PrefixCounts:
        return PrefixCounts(
            asked_tokens=self._asked_tokens,
            hit_tokens=self._hit_tokens,
            evicted_blocks=self._evicted,
            free_blocks=len(self._free),
            cached_blocks=len(self._key_of),
            held_blocks=self.block_count - len(self._free) - len(self._idle),
        )

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        del self._by_key[self._key_of.pop(block)]
        self._evicted += 1
        return block
