"""One session with a peer that a test drives frame by frame."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from business_svc.domain.inference import Accepted, Context, EmbedRequest, Finished, Tokens
from business_svc.errors import Reason, SeamError
from business_svc.link.duplex import DuplexLost
from business_svc.link.exchange import Exchange
from business_svc.link.inference_wire import Failed, News
from business_svc.link.session import MOST_MODELS, Session, SessionEnded, SessionSettings
from google.rpc import code_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from seam.inference.v1 import session_pb2, work_pb2
from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse
from support.duplex import status
from support.link import asked, context_within, until


class HandDuplex:
    """Both ends in a test's hands."""

    def __init__(self) -> None:
        self.sent: list[SessionRequest] = []
        self.room = asyncio.Event()  # cleared: the peer reads nothing
        self.room.set()
        self.takes_nothing = False  # a write fails, as when the peer has ended the call
        self.coming: asyncio.Queue[SessionResponse | DuplexLost | None] = asyncio.Queue()

    def say(
        self, *events: session_pb2.Event, tokens: session_pb2.TokenColumns | None = None, welcome: bool = False
    ) -> None:
        frame = SessionResponse(events=events, tokens=tokens)
        frame.load.state = session_pb2.REPLICA_STATE_READY
        if welcome:
            frame.welcome.protocol_revision = 1
            frame.welcome.replica_id = "hand"
        self.coming.put_nowait(frame)

    def leave(self) -> None:
        frame = SessionResponse()
        frame.load.state = session_pb2.REPLICA_STATE_DRAINING
        self.coming.put_nowait(frame)

    def end(self) -> None:
        self.coming.put_nowait(None)

    def die(self) -> None:
        self.coming.put_nowait(DuplexLost("cut"))

    async def send(self, frame: SessionRequest) -> None:
        if self.takes_nothing:
            raise DuplexLost("the call is over")
        self.sent.append(frame)
        await self.room.wait()

    async def receive(self) -> SessionResponse | None:
        coming = await self.coming.get()
        if isinstance(coming, DuplexLost):
            raise coming
        return coming

    async def aclose(self) -> None:
        pass

    @property
    def submits(self) -> list[int]:
        return [one.request_id for frame in self.sent for one in frame.submits]

    @property
    def cancels(self) -> list[int]:
        return [one.request_id for frame in self.sent for one in frame.cancels]

    @property
    def granted(self) -> int:
        return sum(one.credits for frame in self.sent for one in frame.grants)


@asynccontextmanager
async def session_with(
    window: int = 8, heartbeat_timeout: float = 60.0
) -> AsyncIterator[tuple[Session, HandDuplex, "asyncio.Task[str]"]]:
    peer = HandDuplex()
    peer.say(welcome=True)
    session = await Session.greet(
        peer, SessionSettings("test", credit_window=window, heartbeat_timeout=heartbeat_timeout)
    )
    running = asyncio.create_task(session.run())
    try:
        async with asyncio.timeout(10):
            yield session, peer, running
    finally:
        running.cancel()
        await asyncio.wait([running])


def accepted(request_id: int) -> session_pb2.Event:
    return session_pb2.Event(request_id=request_id, accepted=session_pb2.Accepted(input_token_count=1))


def tokens(request_id: int, *ids: int) -> session_pb2.Event:
    return session_pb2.Event(request_id=request_id, tokens=work_pb2.Tokens(ids=ids, text="x" * len(ids)))


def finished(request_id: int) -> session_pb2.Event:
    return session_pb2.Event(request_id=request_id, finished=work_pb2.Finished(reason=work_pb2.FINISH_REASON_STOP))


def failed(request_id: int) -> session_pb2.Event:
    return session_pb2.Event(request_id=request_id, failed=status("STEP_FAILED", code_pb2.INTERNAL))


async def read_to_end(exchange: Exchange) -> list[News]:
    seen: list[News] = []
    while not seen or not isinstance(seen[-1], Finished | Failed):
        seen.append(await exchange.next())
    return seen


async def test_everything_opened_in_one_tick_leaves_in_one_frame_after_hello() -> None:
    async with session_with() as (session, peer, _):
        for number in range(5):
            session.open(asked(f"p{number}"), Context())
        await until(lambda: len(peer.submits) == 5)
        assert peer.sent[0].HasField("hello")
        assert [len(frame.submits) for frame in peer.sent] == [0, 5]
        assert peer.submits == [1, 2, 3, 4, 5]


async def test_deadlines_cross_as_what_is_left_of_them() -> None:
    async with session_with() as (session, peer, _):
        session.open(asked("p"), context_within(5.0))
        await until(lambda: bool(peer.submits))
        timeout = peer.sent[-1].submits[0].context.timeout
        assert 4.0 < timeout.seconds + timeout.nanos / 1e9 <= 5.0


async def test_a_request_cancelled_while_it_waits_to_be_sent_never_leaves() -> None:
    async with session_with() as (session, peer, _):
        peer.room.clear()
        session.open(asked("first"), Context())
        await until(lambda: peer.submits == [1])
        second = session.open(asked("second"), Context())
        second.close()
        session.open(asked("third"), Context())
        peer.room.set()
        await until(lambda: peer.submits == [1, 3])
        assert peer.cancels == []
        assert session.live_request_count == 2


async def test_a_reader_that_leaves_cancels_exactly_once() -> None:
    async with session_with() as (session, peer, _):
        exchange = session.open(asked("p"), Context())
        await until(lambda: peer.submits == [1])
        exchange.close()
        exchange.close()
        await until(lambda: bool(peer.cancels))
        peer.say(accepted(1), tokens(1, 5), finished(1))  # on the way already
        await until(lambda: session.live_request_count == 0)
        exchange.close()
        session.open(asked("q"), Context())
        await until(lambda: peer.submits == [1, 2])
        assert peer.cancels == [1]


async def test_a_deadline_ends_the_request_here_and_cancels_it_there() -> None:
    async with session_with() as (session, peer, _):
        exchange = session.open(asked("p"), context_within(0.02))
        [news] = await read_to_end(exchange)
        exchange.close()
        assert isinstance(news, Failed)
        assert news.error.reason is Reason.DEADLINE_EXPIRED
        await until(lambda: peer.cancels == [1])


async def test_a_deadline_that_has_passed_sends_nothing() -> None:
    async with session_with() as (session, _, _):
        with pytest.raises(SeamError) as raised:
            session.open(asked("p"), context_within(-1.0))
        assert raised.value.reason is Reason.DEADLINE_EXPIRED
        assert session.live_request_count == 0


async def test_a_request_too_big_for_a_frame_is_refused_alone() -> None:
    async with session_with() as (session, peer, _):
        with pytest.raises(SeamError) as raised:
            session.open(EmbedRequest("embed", ("x" * 16_000_000,)), Context())
        assert raised.value.reason is Reason.MESSAGE_TOO_LARGE
        session.open(asked("small"), Context())
        await until(lambda: peer.submits == [1])


async def test_tokens_are_granted_as_they_are_read_and_not_before() -> None:
    async with session_with(window=8) as (session, peer, _):
        exchange = session.open(asked("p"), Context())
        await until(lambda: peer.submits == [1])
        peer.say(accepted(1), *(tokens(1, one) for one in range(8)))
        await exchange.next()
        for _ in range(3):
            await exchange.next()
        assert peer.granted == 0
        for _ in range(5):
            await exchange.next()
        await until(lambda: peer.granted == 8)
        peer.say(finished(1))
        assert isinstance((await read_to_end(exchange))[-1], Finished)


async def test_a_peer_that_overdraws_its_credits_loses_the_session() -> None:
    async with session_with(window=2) as (session, peer, running):
        exchange = session.open(asked("p"), Context())
        await until(lambda: peer.submits == [1])
        peer.say(accepted(1), tokens(1, 1, 2, 3))
        seen = await read_to_end(exchange)
        assert isinstance(seen[-1], Failed)
        assert seen[-1].error.reason is Reason.REPLICA_LOST
        assert "granted" in await running


def in_columns(*entries: tuple[int, tuple[int, ...]]) -> session_pb2.TokenColumns:
    return session_pb2.TokenColumns(
        request_ids=[request_id for request_id, _ in entries],
        id_counts=[len(ids) for _, ids in entries],
        text_byte_counts=[len(ids) for _, ids in entries],
        ids=[one for _, ids in entries for one in ids],
        text="".join("x" * len(ids) for _, ids in entries),
    )


async def test_tokens_in_columns_reach_their_readers_and_cost_their_credits() -> None:
    async with session_with(window=4) as (session, peer, running):
        first, second = session.open(asked("p"), Context()), session.open(asked("q"), Context())
        await until(lambda: peer.submits == [1, 2])
        peer.say(accepted(1), accepted(2))
        peer.say(tokens=in_columns((2, (7,)), (1, (8, 9))))
        peer.say(finished(1), tokens=in_columns((2, (10, 11))))
        assert [news.ids for news in await read_to_end(first) if isinstance(news, Tokens)] == [(8, 9)]
        assert isinstance(await second.next(), Accepted)
        peer.say(tokens=in_columns((2, (12, 13))))
        assert "2 tokens came where 1 were granted" in await running


async def test_token_columns_that_do_not_fit_lose_the_session() -> None:
    async with session_with() as (session, peer, running):
        session.open(asked("p"), Context())
        peer.say(tokens=session_pb2.TokenColumns(request_ids=[1], id_counts=[3], text_byte_counts=[0], ids=[1]))
        assert "token columns" in await running


def vectors(request_id: int, *indexes: int, size: int = 2) -> session_pb2.Event:
    event = session_pb2.Event(request_id=request_id)
    for index in indexes:
        event.vectors.embeddings.add(index=index, values=[0.5] * size)
    return event


def loads(count: int) -> SessionResponse:
    frame = SessionResponse()
    for _ in range(count):
        frame.load.models.add(model="chat")
    return frame


BROKEN = {
    "accepted twice": ([accepted(1), accepted(1)], "accepted twice"),
    "more results": ([accepted(1), vectors(1, 0, 1, 1)], "a result for text 1"),
    "a text not asked": ([accepted(1), vectors(1, 7)], "a result for text 7"),
    "missing results": ([accepted(1), vectors(1, 0), finished(1)], "1 of 2 results are missing"),
    "a huge result": ([accepted(1), vectors(1, 0, size=1_100_000)], "bytes for 1 results"),
    "tokens of an embedding": ([accepted(1), tokens(1, 5)], "generates none"),
    "nothing accepted": ([vectors(1, 0)], "before accepted"),
    "tokens not accepted": ([tokens(2, 5)], "before accepted"),
    "an end not accepted": ([finished(2)], "finished before accepted"),
    "tokens of no ids": ([accepted(2), tokens(2)], "tokens of no ids"),
    "a book for a token": (
        [accepted(2), session_pb2.Event(request_id=2, tokens=work_pb2.Tokens(ids=[1], text="x" * 70_000))],
        "bytes for 1 tokens",
    ),
    "an event of nothing": ([accepted(2), session_pb2.Event(request_id=2)], "says nothing"),
    "an id never submitted": ([accepted(3)], "request 3, which is not live"),
    "an end twice": ([accepted(2), finished(2), finished(2)], "request 2, which is not live"),
    "more after an end": ([failed(2), tokens(2, 1)], "request 2, which is not live"),
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_a_peer_that_breaks_the_rules_loses_the_session_and_the_reason_is_told(broken: str) -> None:
    events, why = BROKEN[broken]
    async with session_with() as (session, peer, running):
        embedding = session.open(EmbedRequest("embed", ("a", "b")), Context())
        generation = session.open(asked("p"), Context())
        await until(lambda: peer.submits == [1, 2])
        peer.say(*events)
        told = await running
        assert "broke the session's rules" in told
        assert why in told
        lost = [(await read_to_end(one))[-1] for one in (embedding, generation)]
        assert any(isinstance(one, Failed) and one.error.reason is Reason.REPLICA_LOST for one in lost)


async def test_a_peer_that_tells_of_models_without_end_loses_the_session() -> None:
    async with session_with() as (_, peer, running):
        peer.coming.put_nowait(loads(MOST_MODELS))
        await asyncio.sleep(0)
        assert not running.done()
        peer.coming.put_nowait(loads(MOST_MODELS + 1))
        assert "models" in await running


async def test_what_was_received_before_a_loss_is_read_before_it_is_told() -> None:
    async with session_with() as (session, peer, _):
        exchange = session.open(asked("p"), Context())
        await until(lambda: peer.submits == [1])
        peer.say(accepted(1), tokens(1, 7))
        peer.die()
        await until(lambda: session.live_request_count == 0)
        seen = await read_to_end(exchange)
        assert [type(one) for one in seen] == [Accepted, Tokens, Failed]


async def test_what_a_replica_said_before_it_ended_the_call_is_read_though_a_write_failed() -> None:
    """A drain that meets a write is no death: no request is blamed for it."""
    async with session_with() as (session, peer, running):
        exchange = session.open(asked("p"), Context())
        await until(lambda: peer.submits == [1])
        peer.takes_nothing = True
        unheard = session.open(asked("q"), Context())
        await asyncio.sleep(0)
        peer.say(accepted(1), tokens(1, 7))
        peer.leave()
        peer.end()
        assert await running == "the replica ended the session"
        assert [type(one) for one in await read_to_end(exchange)] == [Accepted, Tokens, Failed]
        last = (await read_to_end(unheard))[-1]
        assert isinstance(last, Failed)
        assert last.error.reason is Reason.DRAINING


async def test_a_session_that_cannot_write_and_hears_nothing_is_over_by_its_silence() -> None:
    async with session_with(heartbeat_timeout=0.2) as (session, peer, running):
        peer.takes_nothing = True
        session.open(asked("p"), Context())
        assert "silent" in await running


async def test_a_silent_peer_is_lost_and_one_that_beats_is_not() -> None:
    async with session_with(heartbeat_timeout=0.2) as (_, peer, running):
        loop = asyncio.get_running_loop()
        until_moment = loop.time() + 0.6
        while loop.time() < until_moment:
            await asyncio.sleep(0.02)
            peer.say()
        assert not running.done()
        assert "silent" in await running


async def test_a_loop_that_was_busy_does_not_lose_a_peer_whose_frames_wait() -> None:
    async with session_with(heartbeat_timeout=0.2) as (_, peer, running):
        for _ in range(3):
            block_the_loop(0.3)
            peer.say()
            await asyncio.sleep(0.02)
        assert not running.done()


def block_the_loop(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_cancel_that_meets_a_loss_is_not_forgotten(turns: int) -> None:
    async with session_with() as (session, peer, running):
        session.open(asked("p"), Context())
        peer.die()
        for _ in range(turns):
            await asyncio.sleep(0)
        came_in_time = running.cancel()
        await asyncio.wait([running])
        assert running.cancelled() == came_in_time
        assert session.over


async def test_a_peer_that_does_not_welcome_is_not_a_replica() -> None:
    peer = HandDuplex()
    peer.say()
    with pytest.raises(SessionEnded):
        await Session.greet(peer, SessionSettings("test"))


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), window=st.integers(1, 8), loss=st.booleans())
def test_every_request_ends_exactly_once_whatever_the_order_of_frames(seed: int, window: int, loss: bool) -> None:
    """A peer that keeps the rules, in any order: events of live and cancelled requests interleaved, readers that read,
    rest or leave, and perhaps a loss in the middle."""
    asyncio.run(_play(random.Random(seed), window, loss))


async def _play(chance: random.Random, window: int, loss: bool) -> None:
    async with session_with(window=window) as (session, peer, running):
        exchanges: dict[int, Exchange] = {}
        read: dict[int, list[News]] = {}
        readers: dict[int, asyncio.Task[None]] = {}
        told: dict[int, int] = {}
        ended: set[int] = set()
        left: set[int] = set()

        async def reader(request_id: int) -> None:
            while not read[request_id] or not isinstance(read[request_id][-1], Finished | Failed):
                read[request_id].append(await exchanges[request_id].next())
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)

        for _ in range(chance.randrange(5, 60)):
            move = chance.randrange(6)
            known = sorted(set(peer.submits))
            live = [one for one in known if one not in ended]
            if move == 0 and len(exchanges) < 6:
                request_id = len(exchanges) + 1
                exchanges[request_id] = session.open(asked("p"), Context())
                read[request_id] = []
                readers[request_id] = asyncio.create_task(reader(request_id))
            elif move == 1 and exchanges:
                request_id = chance.choice(list(exchanges))
                readers[request_id].cancel()
                exchanges[request_id].close()
                left.add(request_id)
            elif move in (2, 3) and live:
                request_id = chance.choice(live)
                credits_left = window + granted_to(peer, request_id) - told.get(request_id, 0)
                events = [accepted(request_id)] if request_id not in told else []
                position = told.setdefault(request_id, 0)
                if credits_left > 0:
                    count = chance.randint(1, credits_left)
                    events.append(tokens(request_id, *range(position, position + count)))
                    told[request_id] += count
                peer.say(*events)
            elif move == 4 and live:
                request_id = chance.choice(live)
                first = [] if request_id in told else [accepted(request_id)]
                told.setdefault(request_id, 0)
                ended.add(request_id)
                peer.say(*first, chance.choice([finished, failed])(request_id))
            await asyncio.sleep(0)
        await until(lambda: set(exchanges) <= set(peer.submits) | left)
        if loss:
            peer.die()
            await running
        else:
            for one in set(peer.submits) - ended:
                peer.say(*([] if one in told else [accepted(one)]), finished(one))
        for request_id, task in readers.items():
            await asyncio.wait([task])
            if request_id in left:
                continue
            assert not task.exception()
            ends = [one for one in read[request_id] if isinstance(one, Finished | Failed)]
            ids = [one for news in read[request_id] if isinstance(news, Tokens) for one in news.ids]
            assert len(ends) == 1
            assert ids == list(range(len(ids)))
            assert len(ids) == told.get(request_id, 0)
        await until(lambda: session.live_request_count == 0)
        assert len(peer.cancels) == len(set(peer.cancels))
        assert set(peer.cancels) <= left
        assert not +session.unseen


def granted_to(peer: HandDuplex, request_id: int) -> int:
    return sum(one.credits for frame in peer.sent for one in frame.grants if one.request_id == request_id)
