"""The client's half of a session, for tests: sends frames, collects news by request, from a generator of frames or a
gRPC stream."""

import asyncio
from collections import defaultdict

from seam.inference.v1 import session_pb2, work_pb2

PATIENCE = 20.0


class SessionClient:
    """Reads in a task of its own unless `reading` is False. `frames` has every frame, `news` every event by id."""

    def __init__(self, serve, *, reading=True):
        self._sent = asyncio.Queue()
        self._changed = asyncio.Event()
        self.responses = serve(self._requests())
        self.frames = []
        self.news = defaultdict(list)
        self.end = None  # None while open, "closed", or the exception
        self._reader = asyncio.create_task(self._read()) if reading else None

    async def _requests(self):
        while (frame := await self._sent.get()) is not None:
            yield frame

    async def _read(self):
        try:
            async for frame in self.responses:
                self.take(frame)
            self.end = "closed"
        except Exception as error:  # what the stream failed with is what tests look at
            self.end = error
        self._changed.set()

    def take(self, frame):
        self.frames.append(frame)
        for event in frame.events:
            self.news[event.request_id].append(event)
        self._changed.set()

    def send(self, **frame):
        self._sent.put_nowait(session_pb2.SessionRequest(**frame))

    def hello(self):
        self.send(hello=session_pb2.Hello(protocol_revision=1, client_id="test"))

    def half_close(self):
        self._sent.put_nowait(None)

    @property
    def unread(self):
        """Frames sent that the other side has not taken."""
        return self._sent.qsize()

    async def until(self, what, patience=PATIENCE):
        """Waits until `what()` is true, looking again at every frame."""
        async with asyncio.timeout(patience):
            while not what():
                self._changed.clear()
                await self._changed.wait()

    async def ended(self, *request_ids):
        await self.until(lambda: all(self.last(each) in ("finished", "failed") for each in request_ids))

    async def closed(self):
        await self.until(lambda: self.end is not None)
        return self.end

    async def lose(self):
        """As when the connection breaks."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        await self.responses.aclose()

    def kinds(self, request_id):
        return [event.WhichOneof("event") for event in self.news[request_id]]

    def last(self, request_id):
        return self.kinds(request_id)[-1] if self.news[request_id] else None

    def ids(self, request_id):
        return [token for event in self.news[request_id] for token in event.tokens.ids]

    def text(self, request_id):
        return "".join(event.tokens.text for event in self.news[request_id])

    def reason(self, request_id):
        """Of the last failed event."""
        return reason_of(self.news[request_id][-1].failed)

    @property
    def heartbeats(self):
        return [frame for frame in self.frames if not frame.events and not frame.HasField("welcome")]


def reason_of(status):
    from google.rpc import error_details_pb2

    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return None


def generation(request_id, text="hello", *, tokens=8, credits=None, model="chat", **work):
    return session_pb2.Submit(
        request_id=request_id,
        model=model,
        generate=work_pb2.GenerateWork(
            prompt={"text": text}, stop={"max_output_tokens": tokens, "ignore_end_token": True}, **work
        ),
        initial_credits=credits,
    )


def embedding(request_id, *texts, model="embed"):
    return session_pb2.Submit(request_id=request_id, model=model, embed=work_pb2.EmbedWork(texts=texts or ("hello",)))
