"""Lines of log hold what was asked and answered only where that is asked for; keys never."""

import json
from typing import Any

import pytest
from seam_client import AsyncSeam
from support.told_processes import KEY, told_system

ASKED = "what rhymes with orchard"


async def lines(**settings: str) -> tuple[list[dict[str, Any]], str, str]:
    """Of the business, about one answer and one embedding; the answer; and all that both services wrote."""
    async with told_system(settings={"SEAM_LOG_REQUESTS": "json", **settings}) as system:
        async with AsyncSeam(system.business.grpc, api_key=KEY) as seam:
            async with seam.chat(ASKED, max_output_tokens=5) as stream:
                answer = "".join([piece.text async for piece in stream])
            await seam.embed(["a seam", "to sew"])
        for one in (system.business, *system.replicas):
            await one.leave()
        raw = system.business.log.read_text()
        told = [json.loads(line) for line in raw.splitlines() if '"event": "request"' in line]
        return told, answer, raw + "".join(replica.log.read_text() for replica in system.replicas)


async def test_content_is_in_the_lines_where_it_is_asked_for() -> None:
    told, answer, raw = await lines(SEAM_LOG_CONTENT="true")
    chat, embedding = (next(line for line in told if line.get("operation") == name) for name in ("chat", "embeddings"))
    assert chat["prompts"] == [ASKED]
    assert chat["answer"] == answer
    assert answer
    assert embedding["prompts"] == ["a seam", "to sew"]
    assert KEY not in raw


@pytest.mark.parametrize("settings", [{}, {"SEAM_LOG_CONTENT": "false"}], ids=["unsaid", "false"])
async def test_and_nowhere_otherwise(settings: dict[str, str]) -> None:
    told, _, raw = await lines(**settings)
    assert len(told) == 2
    assert ASKED not in raw
    assert "to sew" not in raw
