"""What peers of earlier versions said is understood today, on either side, and answered as it was."""

import asyncio
from collections import Counter, defaultdict
from contextlib import aclosing
from pathlib import Path

import pytest
from business_svc.domain.inference import Context, Finished, Tokens
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.inference_wire import Failed, Scored, Vectors
from business_svc.link.session import PROTOCOL_REVISION, Session, SessionSettings
from contract.recordings import RECORDINGS, Told, events_of, frames_of, read, reason_of, request_of, take, told_by
from google.protobuf.unknown_fields import UnknownFieldSet
from inference_svc.recording.files import records_of
from inference_svc.server import serve
from inference_svc.settings import Settings
from support.recorded import load, replaying_server

pytestmark = pytest.mark.parametrize("path", RECORDINGS, ids=[path.stem for path in RECORDINGS])
PATIENCE = 60.0


def test_there_are_recordings(path: Path):
    assert path.stat().st_size < 100_000


def test_every_recorded_field_is_known(path: Path):
    records = list(records_of(path))
    assert records[-1].HasField("end"), "the file is whole"
    assert 1 <= records[0].header.protocol_revision <= PROTOCOL_REVISION
    assert [field for record in records for field in unknown(record)] == []


def unknown(message):
    """Numbers of fields that today's contract does not have, anywhere in the message."""
    yield from (field.field_number for field in UnknownFieldSet(message))
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else (value,):
            yield from unknown(inner)


# --- an old client, and today's replica -------------------------------------------------------------------------------


async def test_an_old_clients_frames_get_the_events_they_got(path: Path):
    recorded = frames_of(path)
    async with asyncio.timeout(PATIENCE), serve(Settings(listen=""), load=load) as server:
        await server.ready()
        told = await answered(server.session_service.session, recorded)
    for request_id, before in told_by(recorded).items():
        now = told[request_id]
        if before.is_cancelled:  # how far it came by then is a matter of time
            assert now.is_cancelled
            assert agree(now, before)
        else:
            assert now.events == before.events, f"request {request_id}"


def agree(one: Told, other: Told) -> bool:
    ids = [[i for event in told.events for i in event.tokens.ids] for told in (one, other)]
    shorter = min(map(len, ids))
    return ids[0][:shorter] == ids[1][:shorter]


async def answered(session, recorded):
    """Each frame of the client is sent when all has been heard that its client had heard when it sent it."""
    told, heard, changed = {}, {}, asyncio.Event()

    async def as_before():
        for number, frame in enumerate(recorded):
            if not frame.HasField("request"):
                take(frame.response, heard)
                continue
            while number and not all(reaches(told.get(key), then) for key, then in heard.items()):
                changed.clear()
                await changed.wait()
            yield frame.request

    async with aclosing(session(as_before())) as responses:
        async for response in responses:
            take(response, told)
            changed.set()
    return told


def reaches(now, then):
    return now is not None and now.token_count >= then.token_count and (now.is_over or not then.is_over)


# --- an old replica, and today's link ---------------------------------------------------------------------------------


class OldReplica:
    """A duplex that says what was recorded: each frame when all submits and cancels before it were heard, and there are
    credits for it."""

    def __init__(self, recorded):
        self._recorded = recorded
        self._at = 0
        self._wanted, self._sent = Counter(), Counter()
        self._changed = asyncio.Event()
        self.told = asyncio.Condition()

    async def send(self, frame):
        self._sent.update(sent_by(frame) + credits_of(frame))
        self._changed.set()

    async def receive(self):
        while self._at < len(self._recorded):
            frame = self._recorded[self._at]
            self._at += 1
            async with self.told:
                self.told.notify_all()
            if frame.HasField("request"):
                self._wanted.update(sent_by(frame.request))
                continue
            self._wanted.update(
                {("credit", e.request_id): len(e.tokens.ids) for e in events_of(frame.response) if e.tokens.ids}
            )
            while not self._wanted <= self._sent:
                self._changed.clear()
                await self._changed.wait()
            return frame.response
        return None

    async def reached(self, number):
        """Returns once everything before the recorded frame was heard or said."""
        async with self.told:
            await self.told.wait_for(lambda: self._at > number)

    async def aclose(self):
        pass


def sent_by(frame):
    """The submits and cancels of a frame."""
    told = [("submit", submit.request_id) for submit in frame.submits]
    return Counter([*told, *(("cancel", cancel.request_id) for cancel in frame.cancels)])


def credits_of(frame):
    given = Counter({("credit", submit.request_id): submit.initial_credits for submit in frame.submits})
    given.update({("credit", grant.request_id): grant.credits for grant in frame.grants})
    return given


async def test_an_old_replicas_frames_give_the_answers_they_gave(path: Path):
    recorded = frames_of(path)
    replica, reading, news = OldReplica(recorded), {}, defaultdict(list)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        session = await Session.greet(replica, SessionSettings(client_id="today"))
        running = group.create_task(session.run())
        for number, frame in enumerate(recorded):
            for submit in frame.request.submits:
                await replica.reached(number)
                given = tuple(submit.generate.resume.output_token_ids)
                exchange = session.open(request_of(submit), Context(tenant=submit.context.tenant_key), given)
                reading[submit.request_id] = group.create_task(read(exchange, news[submit.request_id]))
            for cancel in frame.request.cancels:
                await replica.reached(number)
                reading[cancel.request_id].cancel()
        await running
    for request_id, told in told_by(recorded).items():
        if not told.is_cancelled:
            assert same(news[request_id], told), f"request {request_id}"


def same(news, told):
    """Whether the link's news are the recorded events, read by the contract's own words."""
    ids = [i for one in news if isinstance(one, Tokens) for i in one.ids]
    text = "".join(one.text for one in news if isinstance(one, Tokens))
    vectors = {i: tuple(e.values) for one in news if isinstance(one, Vectors) for i, e in one.embeddings}
    scores = {i: tuple(x.score for x in e.labels) for one in news if isinstance(one, Scored) for i, e in one.scores}
    assert ids == [i for event in told.events for i in event.tokens.ids]
    assert text == "".join(event.tokens.text for event in told.events)
    assert vectors == {one.index: tuple(one.values) for event in told.events for one in event.vectors.embeddings}
    assert scores == {
        one.index: tuple(label.score for label in one.labels) for event in told.events for one in event.scores.scores
    }
    end, before = news[-1], told.events[-1]
    if isinstance(end, Failed):
        return end.error.reason.name == reason_of(told)
    assert isinstance(end, Finished)
    usage = before.finished.usage
    counts = (end.usage.input_token_count, end.usage.output_token_count)
    return counts == (usage.input_token_count, usage.output_token_count) and (
        end.stop_string == before.finished.stop_string
    )


# --- an old recording, and today's replay -----------------------------------------------------------------------------


async def test_an_old_recording_is_replayed(path: Path):
    recorded = frames_of(path)
    told = told_by(recorded)
    submits = [submit for frame in recorded for submit in frame.request.submits]
    whole = [one for one in submits if not told[one.request_id].is_cancelled and not one.generate.HasField("resume")]
    assert whole
    async with asyncio.timeout(PATIENCE), replaying_server(path) as replica:
        duplex = await InProcessConnector(replica.session_service.session).connect()
        session = await Session.greet(duplex, SessionSettings(client_id="today"))
        running = asyncio.create_task(session.run())
        for submit in whole:
            news = await read(session.open(request_of(submit), Context()))
            assert same(news, told[submit.request_id]), f"request {submit.request_id}"
        running.cancel()
        await asyncio.wait([running])
        await duplex.aclose()
