"""Which replicas have seen the beginning of a conversation, and so may still have its cache."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from business_svc.domain.inference import Message

_MOST_MESSAGES = 16
_MOST_CHARACTERS = 4096
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first messages of a conversation: a key of all of them, and roughly how many tokens they are."""

    key: int
    token_count: int


def prefixes_of(model: str, tenant: str, messages: Sequence[Message]) -> tuple[Prefix, ...]:
    """Shortest first. Keys mean something in this process only; tenants share none, as replicas share them no cache.
    A very long message counts by its beginning and length: this runs on the event loop."""
    key, tokens, prefixes = hash((model, tenant)), 0, []
    for message in messages[:_MOST_MESSAGES]:
        key = hash((key, message.role, message.content[:_MOST_CHARACTERS], len(message.content)))
        tokens += len(message.content) // _CHARACTERS_PER_TOKEN
        prefixes.append(Prefix(key, tokens))
    return tuple(prefixes)


class PrefixMap:
    """Remembers the last `most` prefixes and up to `holders` replicas each; forgets the least recently used."""

    def __init__(self, most: int = 8192, holders: int = 4) -> None:
        self._most = most
        self._holders = holders
        self._map: OrderedDict[int, list[str]] = OrderedDict()

    def went_to(self, prefixes: Sequence[Prefix], address: str) -> None:
        for prefix in prefixes:
            holders = self._map.setdefault(prefix.key, [])
            if address in holders:
                holders.remove(address)
            holders.append(address)
            del holders[: -self._holders]
            self._map.move_to_end(prefix.key)
        while len(self._map) > self._most:
            self._map.popitem(last=False)

    def tokens_held(self, prefixes: Sequence[Prefix], address: str) -> int:
        """Of the longest prefix that the replica has seen."""
        for prefix in reversed(prefixes):
            if address in self._map.get(prefix.key, ()):
                return prefix.token_count
        return 0

    def forget(self, address: str) -> None:
        """The replica is gone, and its caches with it."""
        for holders in self._map.values():
            if address in holders:
                holders.remove(address)
