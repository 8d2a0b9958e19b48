"""A replayed answer keeps the session's rules: credits, cancels, deadlines, resuming; and many at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from inference_svc.replaying.answers import Match, NothingRecorded
from inference_svc.replaying.playback import Pace
from inference_svc.replaying.server import read_answers
from support.recorded import files_of, recording_server, replaying_server
from support.session_client import SessionClient, embedding, generation


@asynccontextmanager
async def client_of(server) -> AsyncIterator[SessionClient]:
    client = SessionClient(server.session_service.session)
    client.hello()
    try:
        yield client
    finally:
        await client.lose()


async def recorded(folder: Path) -> SessionClient:
    async with recording_server(folder) as server, client_of(server) as client:
        client.send(
            submits=[generation(1, "hello", tokens=40), generation(2, "other", tokens=8), embedding(3, "a", "b")]
        )
        await client.ended(1, 2, 3)
        return client


async def test_tokens_come_within_the_credits_and_no_text_is_lost(tmp_path: Path):
    async with asyncio.timeout(60):
        before = await recorded(tmp_path)
        async with replaying_server(tmp_path) as server, client_of(server) as client:
            client.send(submits=[generation(1, "hello", tokens=40, credits=5)])
            await client.until(lambda: len(client.ids(1)) == 5)
            client.send(submits=[generation(2, "other", tokens=8)])
            await client.ended(2)  # one that waits for its reader holds up nobody
            assert len(client.ids(1)) == 5
            client.send(grants=[{"request_id": 1, "credits": 3}])
            await client.until(lambda: len(client.ids(1)) == 8)
            client.send(grants=[{"request_id": 1, "credits": 100}])
            await client.ended(1)
            assert client.ids(1) == before.ids(1)
            assert client.text(1) == before.text(1)
            assert client.kinds(1)[0] == "accepted"


async def test_a_resumed_answer_goes_on_after_the_tokens_given(tmp_path: Path):
    async with asyncio.timeout(60):
        before = await recorded(tmp_path)
        async with replaying_server(tmp_path) as server, client_of(server) as client:
            for number in range(1, 41):
                given = before.ids(1)[:number]
                resume = {"output_token_ids": given}
                client.send(submits=[generation(number, "hello", tokens=40, resume=resume)])
                await client.ended(number)
                assert given + client.ids(number) == before.ids(1)
                finished = client.news[number][-1].finished
                assert finished.usage.output_token_count == 40 - number
            resume = {"output_token_ids": [1, 2, 3]}
            client.send(submits=[generation(41, "hello", tokens=40, resume=resume)])
            await client.ended(41)
            assert client.reason(41) == "FEATURE_NOT_AVAILABLE"


async def test_a_cancel_and_a_deadline_end_an_answer_that_waits(tmp_path: Path):
    async with asyncio.timeout(60):
        await recorded(tmp_path)
        async with replaying_server(tmp_path) as server, client_of(server) as client:
            client.send(submits=[generation(1, "hello", tokens=40, credits=1)])
            await client.until(lambda: client.ids(1))
            client.send(cancels=[{"request_id": 1}])
            await client.ended(1)
            assert client.reason(1) == "CANCELLED"
            late = generation(2, "hello", tokens=40, credits=1)
            late.context.timeout.FromMilliseconds(200)
            client.send(submits=[late])
            await client.ended(2)
            assert client.reason(2) == "DEADLINE_EXPIRED"
            client.send(submits=[generation(3, "hello", tokens=40, credits=1)])
            await client.until(lambda: client.ids(3))
            server.session_service.drain()
            await client.ended(3)
            assert client.reason(3) == "DRAINING"  # to be resumed elsewhere


async def test_many_sessions_are_answered_at_once(tmp_path: Path):
    async with asyncio.timeout(60):
        before = await recorded(tmp_path)
        async with replaying_server(tmp_path, pace=Pace.RECORDED) as server:

            async def one() -> None:
                async with client_of(server) as client:
                    client.send(submits=[generation(n, "hello", tokens=40) for n in range(1, 9)])
                    await client.ended(*range(1, 9))
                    assert {client.text(n) for n in range(1, 9)} == {before.text(1)}

            await asyncio.gather(*(one() for _ in range(16)))


async def test_a_redacted_recording_is_not_replayed_by_content_without_its_key(tmp_path: Path):
    async with asyncio.timeout(60):
        async with recording_server(tmp_path, text="redacted") as server, client_of(server) as client:
            client.send(submits=[generation(1, "hello")])
            await client.ended(1)
    with pytest.raises(NothingRecorded, match="SEAM_RECORD_KEY"):
        read_answers(files_of(tmp_path), Match.CONTENT, "")
    assert len(read_answers(files_of(tmp_path), Match.ORDER, "")) == 1


async def test_a_recording_without_an_answer_is_refused(tmp_path: Path):
    async with asyncio.timeout(60), recording_server(tmp_path) as server, client_of(server) as client:
        await client.until(lambda: client.frames)
    with pytest.raises(NothingRecorded, match="answered to its end"):
        read_answers(files_of(tmp_path), Match.CONTENT, "")
