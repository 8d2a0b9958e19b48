"""Answers as OpenAI's clients read them; what OpenAI has no field for is under "seam"."""

import base64
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from business_svc.domain.answer import AnswerEvent, Started, Text
from business_svc.domain.inference import (
    Embeddings,
    Finished,
    FinishReason,
    Model,
    PositionLogprobs,
    Scores,
    Timings,
    TokenLogprob,
    Usage,
)
from business_svc.edge_http.json_text import compact
from business_svc.usecases.answering import Answer

_FINISH_REASONS = {
    FinishReason.NONE: None,
    FinishReason.STOP: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.LENGTH: "length",
}


def chat_completion(answer: Answer, created: int) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.started.request_id}",
        "object": "chat.completion",
        "created": created,
        "model": answer.started.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": _logprobs(answer.logprobs),
                "finish_reason": _FINISH_REASONS[answer.finished.reason],
            }
        ],
        "usage": usage(answer.finished.usage),
        "seam": _about(answer.started) | _ending(answer.finished),
    }


async def chat_chunks(
    events: AsyncGenerator[AnswerEvent, None], created: int, include_usage: bool
) -> AsyncGenerator[str, None]:
    """The data of one server-sent event each."""
    head: dict[str, Any] = {}
    async with aclosing(events):
        async for event in events:
            match event:
                case Started(request_id, model):
                    head = {
                        "id": f"chatcmpl-{request_id}",
                        "object": "chat.completion.chunk",
                        "created": created,
                        "model": model,
                    }
                    if include_usage:
                        head["usage"] = None
                    first = {"role": "assistant", "content": ""}
                    yield compact({**head, "choices": [_delta(first)], "seam": _about(event)})
                case Text(text, logprobs):
                    yield compact({**head, "choices": [_delta({"content": text}, logprobs)]})
                case Finished(reason, used):
                    last = {**_delta({}), "finish_reason": _FINISH_REASONS[reason]}
                    yield compact({**head, "choices": [last], "seam": _ending(event)})
                    if include_usage:
                        yield compact({**head, "choices": [], "usage": usage(used)})


def _delta(delta: dict[str, Any], logprobs: tuple[PositionLogprobs, ...] = ()) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": _logprobs(logprobs), "finish_reason": None}


def _about(started: Started) -> dict[str, Any]:
    return {"request_id": started.request_id, "seed": started.seed, "notice": started.notice}


def _ending(finished: Finished) -> dict[str, Any]:
    return {"stop_string": finished.stop_string, "timings": timings(finished.timings)}


def usage(used: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": used.input_token_count,
        "completion_tokens": used.output_token_count,
        "total_tokens": used.input_token_count + used.output_token_count,
        "prompt_tokens_details": {"cached_tokens": used.cached_token_count},
    }


def timings(measured: Timings) -> dict[str, float]:
    """In seconds."""
    return {
        "queue": measured.queue,
        "prefill": measured.prefill,
        "decode": measured.decode,
        "total": measured.total,
    }


def _logprobs(positions: tuple[PositionLogprobs, ...]) -> dict[str, Any] | None:
    if not positions:
        return None
    content = [{**_token(spot.chosen), "top_logprobs": [_token(token) for token in spot.top]} for spot in positions]
    return {"content": content, "refusal": None}


def _token(token: TokenLogprob) -> dict[str, Any]:
    # OpenAI's clients read -9999.0 as "as good as impossible"; JSON has no infinity
    logprob = max(token.logprob, -9999.0)
    # a token that is part of a character has no text of its own, and the contract does not carry its bytes
    known = None if "\ufffd" in token.text else list(token.text.encode())
    return {"token": token.text, "logprob": logprob, "bytes": known}


def embeddings_list(model: str, embeddings: Embeddings, as_base64: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _base64(embedding.values) if as_base64 else embedding.values,
            }
            for index, embedding in enumerate(embeddings.embeddings)
        ],
        "model": model,
        "usage": {
            "prompt_tokens": embeddings.usage.input_token_count,
            "total_tokens": embeddings.usage.input_token_count,
        },
        "seam": {
            "timings": timings(embeddings.timings),
            "truncated": [index for index, embedding in enumerate(embeddings.embeddings) if embedding.truncated],
        },
    }


def _base64(values: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def scores_list(model: str, scores: Scores) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {
                "object": "score",
                "index": index,
                "labels": [{"label": label.label, "score": label.score} for label in score.labels],
                "truncated": score.truncated,
            }
            for index, score in enumerate(scores.scores)
        ],
        "model": model,
        "usage": {"prompt_tokens": scores.usage.input_token_count, "total_tokens": scores.usage.input_token_count},
        "seam": {"timings": timings(scores.timings)},
    }


def prediction(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "model": answer.started.model,
        "finish_reason": answer.finished.reason.value,
        "usage": usage(answer.finished.usage),
        "timings": timings(answer.finished.timings),
        "notice": answer.started.notice,
    }


def model_card(model: Model, created: int) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": "seam",
        "seam": {
            "task": model.task.value,
            "source": model.source,
            "max_context_tokens": model.max_context_tokens,
            "max_texts": model.max_texts,
            "dimension_count": model.dimension_count,
            "labels": list(model.labels),
            "notice": model.notice,
            "ready": model.ready,
        },
    }
