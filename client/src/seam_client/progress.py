"""What an answer has told so far."""

from seam_client.answers import ChatEvent, Citation, Finished, Started, Text


class Progress:
    """Keeps what a reader may ask for again; both chat streams hold one."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self.finished: Finished | None = None
        self.citations: tuple[Citation, ...] = ()
        self.closed = False
        self._pieces: list[str] = []

    def note(self, event: ChatEvent) -> None:
        match event:
            case Started():
                self.started = event
            case Text():
                self._pieces.append(event.text)
            case Citation():
                self.citations += (event,)
            case Finished():
                self.finished = event

    @property
    def text(self) -> str:
        """The answer as far as it has come."""
        return "".join(self._pieces)
