"""One request on its way over HTTP, in OpenAI's language. Needs aiohttp (extra `load`)."""

import asyncio
import json
from typing import Any

import aiohttp

from seam_client.load.outcome import Outcome
from seam_client.load.schedule import Kind, Shot
from seam_client.load.sending import Asked, Clock

_PATHS = {
    Kind.CHAT: "/v1/chat/completions",
    Kind.EMBED: "/v1/embeddings",
    Kind.SCORE: "/v1/score",
    Kind.PREDICT: "/predict",
}
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class HttpSender:
    """`base` is "http://HOST:PORT". The deadline is kept on this side: HTTP has none to send."""

    def __init__(self, base: str, api_key: str | None, asked: Asked) -> None:
        self._base = base.rstrip("/").removesuffix("/v1")
        self._asked = asked
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        no_limit = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        self._session = aiohttp.ClientSession(
            connector=no_limit, headers=headers, timeout=aiohttp.ClientTimeout(total=None)
        )

    async def send(self, shot: Shot, text: str, outcome: Outcome, timeout: float | None, clock: Clock) -> None:
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.post(self._base + _PATHS[shot.kind], json=self._body(shot, text)) as response,
            ):
                if response.status != 200:
                    _note_failure(outcome, response.status, response.headers, await response.read())
                elif shot.kind is Kind.CHAT:
                    await _read_events(response, outcome, clock)
                else:
                    _note_usage(outcome, (await response.json()).get("usage") or {})
        except TimeoutError:
            outcome.code = "DEADLINE_EXCEEDED"
        except (aiohttp.ClientError, OSError):
            outcome.code = "UNAVAILABLE"
        outcome.end = clock()

    def _body(self, shot: Shot, text: str) -> dict[str, Any]:
        model = self._asked.models.get(shot.kind, shot.kind.value)
        match shot.kind:
            case Kind.CHAT:
                return {
                    "model": model,
                    "messages": [{"role": "user", "content": text}],
                    "max_tokens": shot.output_tokens,
                    "ignore_eos": self._asked.ignore_end_token,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                }
            case Kind.EMBED:
                return {"model": model, "input": text}
            case Kind.SCORE:
                return {"model": model, "inputs": [{"text": text}], "truncation": "drop_end"}
            case _:
                return {"text": text, "max_output_tokens": shot.output_tokens}

    async def close(self) -> None:
        await self._session.close()


async def _read_events(response: aiohttp.ClientResponse, outcome: Outcome, clock: Clock) -> None:
    """Server-sent events to their end; one that fails on the way is told as an event with `error`."""
    ended = False
    async for line in response.content:
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            ended = True
            break
        chunk = json.loads(line[6:])
        if "error" in chunk:
            outcome.code, outcome.reason = "INTERNAL", str(chunk["error"].get("code") or "").upper()
            return
        if chunk.get("usage"):
            _note_usage(outcome, chunk["usage"])
        choices = chunk.get("choices") or ()
        if choices and choices[0].get("delta", {}).get("content"):
            outcome.texts.append(clock())
            outcome.first = outcome.first or outcome.texts[0]
    if not ended:
        outcome.code = "INTERNAL"


def _note_usage(outcome: Outcome, usage: dict[str, Any]) -> None:
    outcome.input_tokens = int(usage.get("prompt_tokens") or usage.get("input_token_count") or 0)
    outcome.output_tokens = int(usage.get("completion_tokens") or usage.get("output_token_count") or 0)


def _note_failure(outcome: Outcome, status: int, headers: Any, body: bytes) -> None:
    outcome.code = _CODES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    outcome.retry_info = "retry-after" in headers
    try:
        outcome.reason = str(json.loads(body)["error"]["code"] or "").upper()
    except (ValueError, KeyError, TypeError):
        outcome.reason = f"HTTP_{status}"
