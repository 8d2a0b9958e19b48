"""Laws of a session under any order of frames, over the echo engine:

- every submit that was not refused ends exactly once, and nothing of it comes after its end;
- tokens are a prefix of what the undisturbed request has, and all of it where it finished;
- no request is ahead of the credits that it was given;
- a stream fails for frames that break the contract, and for nothing else;
- when the session is over no slot is held.
"""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.errors import MalformedFrame
from inference_svc.requests import (
    Context,
    Generation,
    OutputDetail,
    Sampling,
)
from inference_svc.wire.replica import SessionLimits
from seam.inference.v1 import session_pb2
from support.serving import serving
from support.session_client import generation

TOKENS = 6
IDS = st.integers(1, 6)
CREDITS = st.one_of(st.none(), st.integers(0, 4))
SUBMIT = st.tuples(st.just("submit"), IDS, CREDITS, st.sampled_from(["hello", "", "\x01", "\x02"]))
GRANT = st.tuples(st.just("grant"), IDS, st.integers(1, 4))
CANCEL = st.tuples(st.just("cancel"), IDS)
NOTHING = st.tuples(st.just("turn"))
ACTIONS = st.lists(st.one_of(SUBMIT, SUBMIT, GRANT, CANCEL, NOTHING), max_size=25)
ENDS = st.sampled_from(["half-close", "lose", "fault", "drain"])


def frame_of(action):
    match action:
        case ("submit", request_id, credits, text):
            return {"submits": [generation(request_id, text, tokens=TOKENS, credits=credits)]}
        case ("grant", request_id, credits):
            return {"grants": [{"request_id": request_id, "credits": credits}]}
        case ("cancel", request_id):
            return {"cancels": [{"request_id": request_id}]}
        case ("zero",):
            return {"grants": [{"request_id": 1}]}
    return {"hello": session_pb2.Hello(protocol_revision=1)}


def undisturbed(runner):
    plain = Generation(
        "chat", Context(), None, tuple(b"hello"), (), Sampling(seed=0), frozenset(), (), 0, TOKENS, None, OutputDetail()
    )
    return runner.expected(plain, TOKENS)


class Expected:
    """What the rules say of the frames sent."""

    def __init__(self):
        self.highest, self.credits, self.prompts = 0, {}, {}

    def sent(self, action):
        match action:
            case ("submit", request_id, credits, text) if request_id > self.highest:
                self.highest = request_id
                self.credits[request_id], self.prompts[request_id] = credits, text
            case ("grant", request_id, credits) if self.credits.get(request_id) is not None:
                self.credits[request_id] += credits


def check(client, expected, answer):
    for request_id, events in client.news.items():
        kinds = [event.WhichOneof("event") for event in events]
        if request_id not in expected.prompts:
            assert set(kinds) == {"failed"}
            continue
        own = [kind for kind, event in zip(kinds, events, strict=True) if not is_refusal(event)]
        ends = [kind for kind in own if kind in ("finished", "failed")]
        assert len(ends) <= 1
        assert not ends or own[-1] == ends[0]
        assert own.count("accepted") <= 1
        ids = client.ids(request_id)
        allowed = expected.credits[request_id]
        assert allowed is None or len(ids) <= allowed
        if expected.prompts[request_id] == "hello":
            assert ids == answer[: len(ids)]
        else:
            assert "finished" not in own
        if "finished" in own:
            assert len(ids) == TOKENS


def is_refusal(event):
    from support.session_client import reason_of

    refusals = ("DUPLICATE_REQUEST", "UNKNOWN_REQUEST")
    return event.WhichOneof("event") == "failed" and reason_of(event.failed) in refusals


async def play(actions, end):
    async with serving(limits=SessionLimits(heartbeat=0.05), slots=2) as served:
        client, expected = served.client(), Expected()
        for action in actions:
            if action == ("turn",):
                await asyncio.sleep(0)
                check(client, expected, undisturbed(served.runner))
            else:
                expected.sent(action)
                client.send(**frame_of(action))
        match end:
            case "half-close":
                for request_id in expected.prompts:  # whoever waits for credits would keep the session open
                    client.send(cancels=[{"request_id": request_id}])
                client.half_close()
                assert await client.closed() == "closed"
                for request_id in expected.prompts:
                    assert client.last(request_id) in ("finished", "failed")
            case "fault":
                client.send(**frame_of(("zero",)))
                assert isinstance(await client.closed(), MalformedFrame)
            case "drain":
                await client.until(lambda: client.frames)
                served.service.drain()
                await client.closed()
            case "lose":
                await client.lose()
        check(client, expected, undisturbed(served.runner))
        assert await asyncio.to_thread(served.engine.wait_until_drained, 20)


@settings(max_examples=120)
@given(ACTIONS, ENDS)
def test_a_session_keeps_its_laws_whatever_comes(actions, end):
    asyncio.run(play(actions, end))
