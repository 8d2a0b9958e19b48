"""Values of labels that callers can invent, kept few."""

UNKNOWN = "unknown"


class KnownNames:
    """Names that have proved to mean something, at most `most` of them; any other is UNKNOWN: what callers make up
    makes no series."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._names: set[str] = set()

    def proved(self, name: str) -> str:
        if name not in self._names and len(self._names) < self._most:
            self._names.add(name)
        return self.claimed(name)

    def claimed(self, name: str) -> str:
        return name if name in self._names else UNKNOWN
