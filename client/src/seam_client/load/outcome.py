"""What became of one request. Moments are seconds since the schedule's start; latencies count from when it was due."""

from dataclasses import dataclass, field

from seam_client.load.schedule import Kind


@dataclass(slots=True)
class Outcome:
    """`due` is the intended arrival, `sent` when it really left (None: too many were in flight, so it never did).

    `texts` are the moments at which pieces of a streamed answer came. `code` is empty for a whole answer, "UNFINISHED"
    for one that was given up at the end of the run."""

    due: float
    kind: Kind
    sent: float | None = None
    first: float | None = None
    end: float | None = None
    texts: list[float] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    code: str = ""
    reason: str = ""
    retry_info: bool = False

    @property
    def succeeded(self) -> bool:
        return self.sent is not None and not self.code and self.end is not None

    @property
    def latency(self) -> float:
        """To the end, good or bad."""
        return (self.end if self.end is not None else self.due) - self.due

    @property
    def first_latency(self) -> float:
        """To the first token; to the end where all comes at once."""
        return self.latency if self.first is None else self.first - self.due

    @property
    def refused(self) -> bool:
        """The server said no for want of room, as it should when it is overloaded."""
        return self.code == "RESOURCE_EXHAUSTED"
