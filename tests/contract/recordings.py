"""What the recordings of past versions are checked with, and how one is added: from tests/, once for a version,

    python -m contract.recordings v0.2-echo

asks an echo replica of today a bit of everything through today's link, and keeps the session as it crossed. Commit the
file; a recording is never made anew: it is what a peer of that version said.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from business_svc.domain.inference import (
    Choice,
    Context,
    EmbedRequest,
    GenerateRequest,
    Message,
    OutputDetail,
    Priority,
    Sampling,
    ScoreInput,
    ScoreRequest,
    StopConditions,
    Truncation,
)
from business_svc.errors import SeamError
from business_svc.link.duplex import Duplex
from business_svc.link.exchange import Exchange
from business_svc.link.grpc_duplex import GrpcConnector
from business_svc.link.inference_wire import Failed
from business_svc.link.session import Session, SessionSettings
from google.rpc import error_details_pb2, status_pb2
from inference_svc.recording.files import records_of
from seam.inference.v1 import session_pb2, work_pb2
from seam.recording.v1 import recording_pb2
from support.recorded import files_of, recording_server

FOLDER = Path(__file__).parent / "recordings"
RECORDINGS = sorted(FOLDER.glob("v*.frames"))
Asked = GenerateRequest | EmbedRequest | ScoreRequest

CONTEXT = Context(tenant="a tenant", priority=Priority.INTERACTIVE)
GREEDY = GenerateRequest(
    "chat", (Message("system", "Be brief."), Message("user", "What is a seam?")), Sampling(), StopConditions(24)
)
LONG = replace(GREEDY, stop=StopConditions(200))  # more than a window of credits: it waits for its reader
SAMPLED = Sampling(temperature=0.9, top_k=20, top_p=0.95, min_p=0.01, repetition_penalty=1.1, presence_penalty=0.5,
                   frequency_penalty=0.25, logit_bias={97: -1.5}, seed=4711)  # fmt: skip
ASKED: tuple[Asked, ...] = (
    GREEDY,
    GenerateRequest("chat", (Message("user", "Par hasard, été comme hiver ☀"),), SAMPLED, StopConditions(40)),
    GenerateRequest("chat", (Message("user", "Stop soon."),), Sampling(), StopConditions(99, stop_strings=("e", "o"))),
    GenerateRequest(
        "chat", (Message("user", "How sure?"),), Sampling(), StopConditions(5), detail=OutputDetail(True, 3)
    ),
    GenerateRequest("chat", (Message("user", "Yes or no?"),), Sampling(), StopConditions(16), Choice(("yes", "no"))),
    GenerateRequest("chat", (Message("user", "Too much."),), Sampling(), StopConditions(100_000)),
    EmbedRequest("embed", ("to sew", "to fly", "to sew")),
    EmbedRequest("embed", ("long " * 200,), truncation=Truncation.DROP_END),
    EmbedRequest("embed", ("long " * 200,)),
    ScoreRequest("score", (ScoreInput("good"), ScoreInput("a question", "an answer"))),
    EmbedRequest("chat", ("the wrong task",)),
)


@dataclass
class Told:
    """All that became of one request, whatever frames it came in: its events in order, tokens that follow one another
    as one; nothing of times and of what else ran."""

    events: list[session_pb2.Event] = field(default_factory=list)

    def add(self, event: session_pb2.Event) -> None:
        mine = session_pb2.Event()
        mine.CopyFrom(event)
        if mine.HasField("finished"):
            mine.finished.ClearField("timings")
        if mine.HasField("failed"):
            _leave_out_words(mine.failed)
        if mine.HasField("tokens") and self.events and self.events[-1].HasField("tokens"):
            text = self.events[-1].tokens.text + mine.tokens.text
            self.events[-1].tokens.MergeFrom(mine.tokens)
            self.events[-1].tokens.text = text
        else:
            self.events.append(mine)

    @property
    def is_over(self) -> bool:
        return bool(self.events) and self.events[-1].WhichOneof("event") in ("finished", "failed")

    @property
    def token_count(self) -> int:
        return sum(len(event.tokens.ids) for event in self.events)

    @property
    def is_cancelled(self) -> bool:
        return bool(self.events) and self.events[-1].failed.code == 1


def _leave_out_words(status: status_pb2.Status) -> None:
    """Words for people may be put better; the code, the reason and the fields may not change."""
    status.message = ""
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(bad):
            for violation in bad.field_violations:
                violation.description = ""
            detail.Pack(bad)


def reason_of(told: Told) -> str:
    info = error_details_pb2.ErrorInfo()
    told.events[-1].failed.details[0].Unpack(info)
    return info.reason


def request_of(submit: session_pb2.Submit) -> Asked:
    """What the business asked for that gave this submit."""
    match submit.WhichOneof("work"):
        case "generate":
            return _generate_request(submit.model, submit.generate)
        case "embed":
            drop = submit.embed.truncation == work_pb2.TRUNCATION_DROP_END
            return EmbedRequest(
                submit.model, tuple(submit.embed.texts), truncation=Truncation.DROP_END if drop else Truncation.REFUSE
            )
        case _:
            inputs = (ScoreInput(x.text, x.text_pair if x.HasField("text_pair") else None) for x in submit.score.inputs)
            return ScoreRequest(submit.model, tuple(inputs))


def _generate_request(model: str, work: work_pb2.GenerateWork) -> GenerateRequest:
    told = {field.name: value for field, value in work.sampling.ListFields() if field.name != "logit_bias"}
    stop = {field.name: value for field, value in work.stop.ListFields() if not field.is_repeated}
    return GenerateRequest(
        model,
        tuple(Message(message.role, message.content) for message in work.prompt.chat.messages),
        Sampling(**told, logit_bias=dict(work.sampling.logit_bias)),
        StopConditions(
            **stop, stop_strings=tuple(work.stop.stop_strings), stop_token_ids=tuple(work.stop.stop_token_ids)
        ),
        Choice(tuple(work.format.choice.texts)) if work.HasField("format") else None,
        OutputDetail(work.detail.logprobs, work.detail.top_logprob_count),
    )


def take(frame: session_pb2.SessionResponse, told: dict[int, Told]) -> None:
    for event in events_of(frame):
        told.setdefault(event.request_id, Told()).add(event)


def events_of(frame: session_pb2.SessionResponse) -> Iterator[session_pb2.Event]:
    """Columns as events too: read here by the contract's own words, not by the code under test."""
    ids, text = list(frame.tokens.ids), frame.tokens.text.encode()
    for request_id, count, size in zip(
        frame.tokens.request_ids, frame.tokens.id_counts, frame.tokens.text_byte_counts, strict=True
    ):
        yield session_pb2.Event(request_id=request_id, tokens={"ids": ids[:count], "text": text[:size].decode()})
        ids, text = ids[count:], text[size:]
    yield from frame.events


def frames_of(path: Path) -> list[recording_pb2.Frame]:
    return [record.frame for record in records_of(path) if record.HasField("frame")]


def told_by(frames: Sequence[recording_pb2.Frame]) -> dict[int, Told]:
    told: dict[int, Told] = {}
    for frame in frames:
        take(frame.response, told)
    return told


async def read(exchange: Exchange, news: list[object] | None = None) -> list[object]:
    """The link's news of one request, to its end; put into `news` as they come."""
    news = [] if news is None else news
    try:
        while True:
            news.append(await exchange.next())
            if type(news[-1]).__name__ in ("Finished", "Failed"):
                return news
    finally:
        exchange.close()


async def record(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with recording_server(Path(folder)) as server:
            duplex: Duplex = await GrpcConnector(server.address).connect()
            session = await Session.greet(duplex, SessionSettings(client_id="recorded", user_agent=path.stem))
            running = asyncio.create_task(session.run())
            for asked in ASKED:
                await read(session.open(asked, CONTEXT))
            given = await _given(session.open(LONG, CONTEXT), 7)
            await read(session.open(LONG, CONTEXT, given))
            await asyncio.gather(*(read(session.open(asked, CONTEXT)) for asked in ASKED[:4]))
            running.cancel()
            await asyncio.wait([running])
            await duplex.aclose()
        _keep(Path(folder), path)


def _keep(folder: Path, path: Path) -> None:
    [made] = files_of(folder)
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as kept:  # never over one that is there
        kept.write(made.read_bytes())


async def _given(exchange: Exchange, count: int) -> tuple[int, ...]:
    """The first ids; then the reader goes away."""
    ids: list[int] = []
    while len(ids) < count:
        news = await exchange.next()
        if isinstance(news, Failed):
            raise SeamError(news.error.reason, str(news.error))
        ids += getattr(news, "ids", ())
    exchange.close()
    return tuple(ids[:count])


if __name__ == "__main__":
    asyncio.run(record(FOLDER / f"{sys.argv[1]}.frames"))
