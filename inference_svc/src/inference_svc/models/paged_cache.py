"""Keys and values in blocks. One tensor pair a layer, `(blocks, block tokens, key heads, head dimension)`."""

import torch

from inference_svc.models.kv_cache import empty_like


class PagedCache:
    """`block_count` blocks and one more, the last, that nobody reads: padding writes there.

    What a block holds of earlier sequences stays there until it is overwritten, numbers that are none among it: whoever
    attends must not let masked positions into its products.
    """

    def __init__(self, block_count: int, block_tokens: int) -> None:
        self.block_count = block_count
        self.block_tokens = block_tokens
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def layer(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of a layer, made at its first use in the shape the layer really has.

        `key` and `value` are `(tokens, heads, dimension)`.
        """
        pair = self._layers.get(index)
        if pair is None:
            pair = (self._blocks_like(key), self._blocks_like(value))
            self._layers[index] = pair
        return pair

    def resize(self, block_count: int) -> None:
        """Have another number of blocks, all empty, in every layer that there is."""
        self.block_count = block_count
        self._layers = {index: (_none_of(keys), _none_of(values)) for index, (keys, values) in self._layers.items()}
        for index, (keys, values) in self._layers.items():  # now that the memory of all of them is free
            self._layers[index] = (self._blocks_like(keys[:, 0]), self._blocks_like(values[:, 0]))

    @property
    def byte_count(self) -> int:
        return sum(part.nbytes for pair in self._layers.values() for part in pair)

    @property
    def bytes_per_token(self) -> int:
        """Of all layers that have been used."""
        return self.byte_count // ((self.block_count + 1) * self.block_tokens)

    def last_values(self, places: torch.Tensor) -> torch.Tensor:
        """What the last layer keeps at these places, `(places, heads, dimension)`."""
        _, values = self._layers[max(self._layers)]
        return values.flatten(0, 1)[places]

    def _blocks_like(self, part: torch.Tensor) -> torch.Tensor:
        """`part` `(tokens, heads, dimension)`."""
        return empty_like(part, (self.block_count + 1, self.block_tokens, *part.shape[1:]))


def _none_of(part: torch.Tensor) -> torch.Tensor:
    return part.new_empty((0, *part.shape[1:]))
