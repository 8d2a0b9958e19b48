"""A way to a replica that can be cut, and that keeps the books of what crossed it."""

import asyncio
from collections import defaultdict
from enum import Enum

from business_svc.link.duplex import Connector, Duplex, DuplexLost
from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse


class Cut(Enum):
    NOW = "now: what is on the way is lost"
    BEFORE = "when the business next says something, which is lost"
    AFTER = "when the business next said something, which arrives"


class Books:
    """Of one replica. Raises AssertionError where a frame breaks a law: a request ends at most once and nothing comes
    after that; its tokens are never more than the credits that it was given."""

    def __init__(self) -> None:
        self.may_reach: dict[str, int] = defaultdict(int)  # by prompt: the output position that credits allow
        self._prompts: dict[int, str] = {}  # of this session's requests
        self._credits: dict[int, int] = {}
        self._ended: set[int] = set()

    def session_begins(self) -> None:
        self._prompts.clear()
        self._credits.clear()
        self._ended.clear()

    def sent(self, frame: SessionRequest) -> None:
        for submit in frame.submits:
            work = submit.generate
            self._prompts[submit.request_id] = prompt = work.prompt.chat.messages[-1].content
            self._credits[submit.request_id] = submit.initial_credits
            reach = len(work.resume.output_token_ids) + submit.initial_credits
            self.may_reach[prompt] = max(self.may_reach[prompt], reach)
        for grant in frame.grants:
            self._credits[grant.request_id] += grant.credits
            self.may_reach[self._prompts[grant.request_id]] += grant.credits

    def received(self, frame: SessionResponse) -> None:
        for request_id, count in zip(frame.tokens.request_ids, frame.tokens.id_counts, strict=True):
            self._tokens(request_id, count)
        for event in frame.events:
            self._tokens(event.request_id, len(event.tokens.ids))
            if event.WhichOneof("event") in ("finished", "failed"):
                self._ended.add(event.request_id)

    def _tokens(self, request_id: int, count: int) -> None:
        assert request_id in self._prompts, f"news of request {request_id}, which was never submitted"
        assert request_id not in self._ended, f"news of request {request_id} after its end"
        self._credits[request_id] -= count
        assert self._credits[request_id] >= 0, f"request {request_id} is {-self._credits[request_id]} over its credits"


class TappedConnector:
    def __init__(self, inner: Connector, books: Books) -> None:
        self._inner = inner
        self._books = books
        self._duplex: TappedDuplex | None = None

    @property
    def address(self) -> str:
        return self._inner.address

    @property
    def hop(self) -> float:
        return self._inner.hop

    async def connect(self) -> "TappedDuplex":
        self._duplex = TappedDuplex(await self._inner.connect(), self._books)
        return self._duplex

    def cut(self, how: Cut) -> None:
        if self._duplex is not None:
            self._duplex.cut(how)


class TappedDuplex:
    def __init__(self, inner: Duplex, books: Books) -> None:
        self._inner = inner
        self._books = books
        self._books.session_begins()
        self._how: Cut | None = None
        self._is_cut = asyncio.Event()

    def cut(self, how: Cut) -> None:
        self._how = how
        if how is Cut.NOW:
            self._is_cut.set()

    async def send(self, frame: SessionRequest) -> None:
        if self._is_cut.is_set() or self._how is Cut.BEFORE:
            self._is_cut.set()
            raise DuplexLost("cut before a frame")
        self._books.sent(frame)
        await self._inner.send(frame)
        if self._how is Cut.AFTER:
            self._is_cut.set()
            raise DuplexLost("cut after a frame")

    async def receive(self) -> SessionResponse | None:
        receiving = asyncio.ensure_future(self._inner.receive())
        cutting = asyncio.ensure_future(self._is_cut.wait())
        try:
            await asyncio.wait((receiving, cutting), return_when=asyncio.FIRST_COMPLETED)
            if self._is_cut.is_set():
                raise DuplexLost("cut")
            frame = receiving.result()
        finally:
            receiving.cancel()
            cutting.cancel()
            await asyncio.gather(receiving, cutting, return_exceptions=True)  # raises a cancel of ours, not of theirs
        if frame is not None:
            self._books.received(frame)
        return frame

    async def aclose(self) -> None:
        await self._inner.aclose()
