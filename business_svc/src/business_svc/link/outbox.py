"""What the next frames to a replica will say."""

from collections.abc import Iterator

from seam.inference.v1.session_pb2 import SessionRequest, Submit


class Outbox:
    """Gathers a tick's submits, cancels and grants into as few frames as their size allows.

    Bounded by the session's live requests: one submit, one cancel and one grant each. A request that is cancelled
    before its submit was sent leaves no trace.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._submits: dict[int, Submit] = {}
        self._cancels: list[int] = []
        self._grants: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._submits or self._cancels or self._grants)

    def submit(self, submit: Submit) -> None:
        self._submits[submit.request_id] = submit

    def cancel(self, request_id: int) -> bool:
        """Returns whether the replica will hear of it (and answer); not so when it never heard of the request."""
        self._grants.pop(request_id, None)
        if self._submits.pop(request_id, None) is not None:
            return False
        self._cancels.append(request_id)
        return True

    def grant(self, request_id: int, credits: int) -> None:
        self._grants[request_id] = self._grants.get(request_id, 0) + credits

    def forget(self, request_id: int) -> None:
        """The request ended: what it was still to be granted does not matter."""
        self._grants.pop(request_id, None)

    def frames(self) -> Iterator[SessionRequest]:
        """Empties it. Each frame is made when asked for; what is put in meanwhile may join it."""
        while self:
            frame, room = SessionRequest(), self._most_bytes
            while self._submits:
                request_id = next(iter(self._submits))
                size = self._submits[request_id].ByteSize()
                if size > room and frame.submits:
                    break
                frame.submits.append(self._submits.pop(request_id))
                room -= size
            for request_id in self._cancels:  # of requests submitted in earlier frames, all of them
                frame.cancels.add(request_id=request_id)
            for request_id, granted in self._grants.items():
                frame.grants.add(request_id=request_id, credits=granted)
            self._cancels.clear()
            self._grants.clear()
            yield frame
