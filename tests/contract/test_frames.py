"""A session's frames as the contract documents them, by hand: right ones, wrong ones, and what they leave alone."""

import asyncio
from collections.abc import Callable

import pytest
from business_svc.link.duplex import Duplex, DuplexLost
from contract.asking import answer, asked, expected_ids, until
from contract.conftest import World
from google.rpc import error_details_pb2
from seam.inference.v1 import session_pb2 as pb
from seam.inference.v1 import work_pb2

HELLO = pb.SessionRequest(hello=pb.Hello(protocol_revision=1, client_id="test"))


def submit(request_id: int, *, text: str = "go", count: int = 5, credits: int | None = None) -> pb.Submit:
    made = pb.Submit(
        request_id=request_id,
        model="chat",
        generate=work_pb2.GenerateWork(
            prompt=work_pb2.Prompt(text=text), stop=work_pb2.StopConditions(max_output_tokens=count)
        ),
    )
    if credits is not None:
        made.initial_credits = credits
    return made


async def receive(duplex: Duplex) -> pb.SessionResponse:
    frame = await duplex.receive()
    assert frame is not None, "the session ended"
    assert frame.HasField("load"), "every frame tells the load"
    return frame


async def events_until(duplex: Duplex, wanted: Callable[[list[pb.Event]], bool]) -> list[pb.Event]:
    events: list[pb.Event] = []
    async with asyncio.timeout(10):
        while not wanted(events):
            events.extend((await receive(duplex)).events)
    return events


def ended(count: int = 1) -> Callable[[list[pb.Event]], bool]:
    return lambda events: sum(e.WhichOneof("event") in ("finished", "failed") for e in events) >= count


def reason_of(event: pb.Event) -> str:
    for detail in event.failed.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            assert info.domain == "seam"
            return info.reason
    raise AssertionError(f"no ErrorInfo in {event}")


async def opened(world: World) -> Duplex:
    duplex = await world.duplex()
    await duplex.send(HELLO)
    welcome = await receive(duplex)
    assert welcome.HasField("welcome")
    assert [model.name for model in welcome.welcome.models] == ["chat", "embed", "score"]
    assert welcome.welcome.protocol_revision == 1
    return duplex


async def play(duplex: Duplex, frames: list[pb.SessionRequest]) -> None:
    """Sends all, then reads until the session is refused."""
    async with asyncio.timeout(10):
        for frame in frames:
            await duplex.send(frame)
        while await duplex.receive() is not None:
            pass


async def test_a_client_that_reads_columns_gets_a_request_in_one_form_a_frame(world: World) -> None:
    duplex = await world.duplex()
    hello = pb.Hello(protocol_revision=1, client_id="test", capabilities=["token-columns"])
    await duplex.send(pb.SessionRequest(hello=hello))
    await receive(duplex)
    # Credits hold both answers between their first tokens and their end, so that some frames tell tokens alone.
    await duplex.send(pb.SessionRequest(submits=[submit(1, count=40, credits=4), submit(2, count=40, credits=4)]))
    ids: dict[int, list[int]] = {1: [], 2: []}
    texts = {1: "", 2: ""}
    left, columns = {1, 2}, 0
    granted = 4
    async with asyncio.timeout(10):
        while left:
            frame = await receive(duplex)
            columns += len(frame.tokens.request_ids)
            assert not set(frame.tokens.request_ids) & {event.request_id for event in frame.events}
            at = text_at = 0
            entries = zip(frame.tokens.request_ids, frame.tokens.id_counts, frame.tokens.text_byte_counts, strict=True)
            for request_id, count, size in entries:
                ids[request_id].extend(frame.tokens.ids[at : at + count])
                texts[request_id] += frame.tokens.text[text_at : text_at + size]
                at, text_at = at + count, text_at + size
            for event in frame.events:
                ids[event.request_id].extend(event.tokens.ids)
                texts[event.request_id] += event.tokens.text
                left -= {event.request_id} if event.WhichOneof("event") == "finished" else set()
            if granted < 40 and all(len(got) == granted for got in ids.values()):
                granted += 12
                await duplex.send(pb.SessionRequest(grants=[pb.Grant(request_id=i, credits=12) for i in (1, 2)]))
    assert columns > 0
    for request_id in (1, 2):
        assert len(ids[request_id]) == 40
        assert texts[request_id] == bytes(ids[request_id]).decode()


async def test_events_come_in_the_documented_order(world: World) -> None:
    duplex = await opened(world)
    await duplex.send(pb.SessionRequest(submits=[submit(1)]))
    events = await events_until(duplex, ended())
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "accepted"
    assert kinds[-1] == "finished"
    assert set(kinds[1:-1]) == {"tokens"}
    assert sum(len(event.tokens.ids) for event in events) == 5
    await duplex.aclose()


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([pb.SessionRequest()], id="no hello"),
        pytest.param([pb.SessionRequest(submits=[submit(1)])], id="a submit before hello"),
        pytest.param([pb.SessionRequest(hello=HELLO.hello, submits=[submit(1)])], id="hello not alone"),
        pytest.param([pb.SessionRequest(hello=pb.Hello(client_id="x"))], id="no revision"),
        pytest.param([HELLO, HELLO], id="hello twice"),
        pytest.param([HELLO, pb.SessionRequest(submits=[submit(1)], grants=[pb.Grant(request_id=1)])], id="no credits"),
    ],
)
async def test_malformed_frames_end_their_own_session_alone(world: World, frames: list[pb.SessionRequest]) -> None:
    other = asked("undisturbed", 12, temperature=1.0, seed=11)
    asking = asyncio.create_task(answer(world.pool, other))
    duplex = await world.duplex()
    with pytest.raises(DuplexLost):
        await play(duplex, frames)
    await duplex.aclose()
    assert (await asking).ids == expected_ids(world.runner, other, 12)


async def test_a_duplicate_id_fails_only_the_second(world: World) -> None:
    duplex = await opened(world)
    world.shut_gates()
    await duplex.send(pb.SessionRequest(submits=[submit(1, count=4), submit(1, count=9)]))
    events = await events_until(duplex, lambda events: any(e.WhichOneof("event") == "failed" for e in events))
    assert [reason_of(e) for e in events if e.WhichOneof("event") == "failed"] == ["DUPLICATE_REQUEST"]
    world.open_gates()
    events = await events_until(duplex, lambda events: any(e.WhichOneof("event") == "finished" for e in events))
    assert sum(len(event.tokens.ids) for event in events) == 4
    await duplex.aclose()


async def test_a_grant_for_an_unknown_request_is_told_and_disturbs_nothing(world: World) -> None:
    duplex = await opened(world)
    frame = pb.SessionRequest(submits=[submit(1)], grants=[pb.Grant(request_id=99, credits=5)])
    await duplex.send(frame)
    events = await events_until(duplex, ended(2))
    by_id = {event.request_id: event for event in events if event.WhichOneof("event") in ("finished", "failed")}
    assert reason_of(by_id[99]) == "UNKNOWN_REQUEST"
    assert by_id[1].WhichOneof("event") == "finished"
    await duplex.aclose()


async def test_a_cancel_of_an_unknown_request_is_ignored(world: World) -> None:
    duplex = await opened(world)
    await duplex.send(pb.SessionRequest(cancels=[pb.Cancel(request_id=77)], submits=[submit(1)]))
    events = await events_until(duplex, ended())
    assert {event.request_id for event in events} == {1}
    await duplex.aclose()


async def test_a_cancelled_request_ends_once_with_cancelled(world: World) -> None:
    duplex = await opened(world)
    await duplex.send(pb.SessionRequest(submits=[submit(1, count=400, credits=3)]))
    await events_until(duplex, lambda events: sum(len(e.tokens.ids) for e in events) == 3)
    await duplex.send(pb.SessionRequest(cancels=[pb.Cancel(request_id=1)]))
    events = await events_until(duplex, ended())
    assert reason_of(events[-1]) == "CANCELLED"
    await duplex.send(pb.SessionRequest(cancels=[pb.Cancel(request_id=1)], submits=[submit(2)]))
    events = await events_until(duplex, ended())
    assert {event.request_id for event in events} == {2}
    await duplex.aclose()


async def test_nothing_is_generated_beyond_the_credits(world: World) -> None:
    duplex = await opened(world)
    await duplex.send(pb.SessionRequest(submits=[submit(1, count=10, credits=4)]))
    events = await events_until(duplex, lambda events: sum(len(e.tokens.ids) for e in events) == 4)
    steps = world.runner.step_count
    await asyncio.sleep(0.05)
    assert world.runner.step_count == steps
    await duplex.send(pb.SessionRequest(grants=[pb.Grant(request_id=1, credits=6)]))
    events = await events_until(duplex, ended())
    assert sum(len(e.tokens.ids) for e in events) == 6
    await duplex.aclose()


async def test_losing_the_session_frees_everything_of_it(world: World) -> None:
    duplex = await opened(world)
    await duplex.send(pb.SessionRequest(submits=[submit(n, count=400, credits=2) for n in range(1, 6)]))
    await events_until(duplex, lambda events: sum(len(e.tokens.ids) for e in events) == 10)
    assert world.open_slots == 5
    await duplex.aclose()
    await until(lambda: world.open_slots == 0)


async def test_heartbeats_come_while_nothing_happens(world: World) -> None:
    duplex = await opened(world)
    async with asyncio.timeout(3):
        frame = await receive(duplex)
    assert not frame.events
    assert frame.load.state == pb.REPLICA_STATE_READY
    await duplex.aclose()
