"""A client that keeps the rules while others do not, and knows what it must be answered."""

import asyncio
from collections.abc import Callable

from support import outlets
from support.echo import EchoRunner
from support.session_client import SessionClient, generation


async def ask_until(client: SessionClient, over: Callable[[], bool], tokens: int = 12) -> int:
    """One generation after another, by credits, each checked token by token. Returns how many. Waits long: others may
    have the machine."""
    wanted = EchoRunner().expected(outlets.generation("hello", count=tokens), tokens)
    asked = 0
    while not over():
        asked += 1
        submit = generation(asked, tokens=tokens, credits=3)
        submit.context.tenant_key = "honest"  # fairness is between tenants
        client.send(submits=[submit])
        await client.until(lambda number=asked: len(client.ids(number)) == 3 or client.last(number) == "failed", 90)
        client.send(grants=[{"request_id": asked, "credits": tokens}])
        await client.until(lambda number=asked: client.last(number) in ("finished", "failed"), 90)
        assert client.last(asked) == "finished", client.news[asked][-1]
        assert client.ids(asked) == wanted
        del client.news[asked]
        client.frames.clear()
        await asyncio.sleep(0)
    return asked
