"""The contract's services on grpc.aio: each method reads, asks the rooms behind, writes, and tells errors."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from seam.inference.v1 import inference_service_pb2 as service_pb
from seam.inference.v1 import inference_service_pb2_grpc as service_grpc
from seam.inference.v1 import model_service_pb2 as model_pb
from seam.inference.v1 import model_service_pb2_grpc as model_grpc
from seam.inference.v1 import session_pb2 as session_pb

from inference_svc.answering import Admits
from inference_svc.catalogue import Catalogue
from inference_svc.errors import InvalidField
from inference_svc.requests import Accepted, Context, Finished, Request, Score, Scores, Tokens, Vector, Vectors, Work
from inference_svc.residency import Residency
from inference_svc.wire.calls import Answer, Calls
from inference_svc.wire.inference_wire import (
    read_context,
    read_embed_work,
    read_generate_work,
    read_prompt,
    read_score_work,
    write_accepted,
    write_embed_response,
    write_finished,
    write_model,
    write_score_response,
    write_tokens,
)
from inference_svc.wire.model_control import changeable
from inference_svc.wire.model_wire import read_grace, read_model_spec, write_load_progress
from inference_svc.wire.reading import readable
from inference_svc.wire.session_service import SessionService
from inference_svc.wire.telling import Call, telling

_log = logging.getLogger(__name__)


class InferenceServicer(service_grpc.InferenceServiceServicer):
    """Streams are coroutines that write, which grpc.aio also takes: cancelled, they unwind at once, while a generator
    would be left where it stood until it is collected."""

    def __init__(
        self, sessions: SessionService, calls: Calls, admission: Admits[Any], clock: Callable[[], float]
    ) -> None:
        self._sessions = sessions
        self._calls = calls
        self._admission = admission
        self._clock = clock

    async def Session(self, requests: AsyncIterator[session_pb.SessionRequest], call: Call) -> None:  # type: ignore[override]
        arriving = cast("AsyncGenerator[session_pb.SessionRequest, None]", aiter(requests))
        async with (
            telling(call),
            aclosing(arriving),
            aclosing(readable(arriving)) as messages,
            aclosing(self._sessions.session(messages)) as frames,
        ):
            async for frame in frames:
                await call.write(frame)

    async def Generate(self, request: service_pb.GenerateRequest, call: Call) -> None:  # type: ignore[override]
        async with telling(call):
            asked = self._request(request.model, read_generate_work(request.work), request.context, call)
            async with aclosing(self._calls.answers(asked)) as answers:
                async for answer in answers:
                    await call.write(_generate_response(answer))

    async def Embed(self, request: service_pb.EmbedRequest, call: Call) -> service_pb.EmbedResponse:
        async with telling(call):
            asked = self._request(request.model, read_embed_work(request.work), request.context, call)
            vectors: list[Vector] = []
            async with aclosing(self._calls.answers(asked)) as answers:
                async for answer in answers:
                    if isinstance(answer, Vectors):
                        vectors.extend(answer.vectors)
            assert isinstance(answer, Finished)
            return write_embed_response(vectors, answer)
        raise AssertionError("telling() ends the call")

    async def Score(self, request: service_pb.ScoreRequest, call: Call) -> service_pb.ScoreResponse:
        async with telling(call):
            asked = self._request(request.model, read_score_work(request.work), request.context, call)
            scores: list[Score] = []
            async with aclosing(self._calls.answers(asked)) as answers:
                async for answer in answers:
                    if isinstance(answer, Scores):
                        scores.extend(answer.scores)
            assert isinstance(answer, Finished)
            return write_score_response(scores, answer)
        raise AssertionError("telling() ends the call")

    async def CountTokens(self, request: service_pb.CountTokensRequest, call: Call) -> service_pb.CountTokensResponse:
        async with telling(call):
            prompt = read_prompt(request.prompt, "prompt")
            context = self._context(session_pb.RequestContext(), call)
            ids, limit = await self._admission.count(request.model, prompt, context)
            return service_pb.CountTokensResponse(
                token_count=len(ids), max_context_tokens=limit, token_ids=ids if request.include_token_ids else ()
            )
        raise AssertionError("telling() ends the call")

    def _request(self, model: str, work: Work, context: session_pb.RequestContext, call: Call) -> Request:
        return Request(model, work, self._context(context, call))

    def _context(self, context: session_pb.RequestContext, call: Call) -> Context:
        """A call may carry its trace in the message or, as other clients do, in metadata."""
        read = read_context(context, self._clock(), call.time_remaining())
        return read if read.traceparent else _traced(read, call)


class ModelServicer(model_grpc.ModelServiceServicer):
    """`may_change`: whether callers may change what is served. There is no residency where nobody can."""

    def __init__(self, catalogue: Catalogue, residency: Residency | None, *, may_change: bool) -> None:
        self._catalogue = catalogue
        self._residency = residency
        self._may_change = may_change

    async def ListModels(self, request: model_pb.ListModelsRequest, call: Call) -> model_pb.ListModelsResponse:
        async with telling(call):
            entries = self._catalogue.entries()
            begin = 0
            if request.page_token:
                names = [entry.info.name for entry in entries]
                if request.page_token not in names:
                    raise InvalidField.of_field("page_token", "is not from a previous page")
                begin = names.index(request.page_token)
            end = begin + request.page_size if request.page_size else len(entries)
            return model_pb.ListModelsResponse(
                models=map(write_model, entries[begin:end]),
                next_page_token=entries[end].info.name if end < len(entries) else "",
            )
        raise AssertionError("telling() ends the call")

    async def GetModel(self, request: model_pb.GetModelRequest, call: Call) -> model_pb.GetModelResponse:
        async with telling(call):
            return model_pb.GetModelResponse(model=self._model(request.name))
        raise AssertionError("telling() ends the call")

    async def LoadModel(self, request: model_pb.LoadModelRequest, call: Call) -> None:  # type: ignore[override]
        async with telling(call):
            residency = self._changeable()
            spec = read_model_spec(request.spec)
            loading = residency.load(spec)
            async with aclosing(loading.progresses()) as progresses:
                async for progress in progresses:
                    await call.write(write_load_progress(progress))
            await call.write(model_pb.LoadModelResponse(model=self._model(spec.name)))

    async def UnloadModel(self, request: model_pb.UnloadModelRequest, call: Call) -> model_pb.UnloadModelResponse:
        async with telling(call):
            handed_back = await self._changeable().unload(request.name, read_grace(request))
            return model_pb.UnloadModelResponse(handed_back_count=handed_back)
        raise AssertionError("telling() ends the call")

    async def SleepModel(self, request: model_pb.SleepModelRequest, call: Call) -> model_pb.SleepModelResponse:
        async with telling(call):
            await self._changeable().sleep(request.name)
            return model_pb.SleepModelResponse(model=self._model(request.name))
        raise AssertionError("telling() ends the call")

    async def WakeModel(self, request: model_pb.WakeModelRequest, call: Call) -> model_pb.WakeModelResponse:
        async with telling(call):
            await self._changeable().wake(request.name)
            return model_pb.WakeModelResponse(model=self._model(request.name))
        raise AssertionError("telling() ends the call")

    def _model(self, name: str) -> model_pb.Model:
        return write_model(self._catalogue.entry(name, "name"))

    def _changeable(self) -> Residency:
        return changeable(self._residency, may_change=self._may_change)


def _traced(context: Context, call: Call) -> Context:
    told = {key: value for key, value in call.invocation_metadata() or () if isinstance(value, str)}
    return replace(context, traceparent=told.get("traceparent", ""), tracestate=told.get("tracestate", ""))


def _generate_response(answer: Answer) -> service_pb.GenerateResponse:
    match answer:
        case Accepted():
            return service_pb.GenerateResponse(accepted=write_accepted(answer))
        case Tokens():
            return service_pb.GenerateResponse(tokens=write_tokens(answer))
        case Finished():
            return service_pb.GenerateResponse(finished=write_finished(answer))
        case Vectors() | Scores():
            raise AssertionError("a generation has no vectors and no scores")
