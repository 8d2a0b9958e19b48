"""The HTTP edge: routes, thin over the use cases, and their documentation."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from business_svc.domain.access import KeyRing
from business_svc.domain.fields import Renaming
from business_svc.domain.inference import GenerateRequest
from business_svc.edge_http import answers_http, requests_http
from business_svc.edge_http.connection import EventStream, answer_of
from business_svc.edge_http.door import WATCH, Door, call_of
from business_svc.edge_http.errors_http import error_response, protocol_error
from business_svc.edge_http.schema import ChatCompletionBody, EmbeddingsBody, PredictBody, ScoreBody
from business_svc.errors import Reason, SeamError
from business_svc.observing import UNOBSERVED, CallWatch, Observer
from business_svc.usecases import embedding, scoring
from business_svc.usecases.answering import Answering, whole_answer
from business_svc.usecases.calling import Call, in_callers_words
from business_svc.usecases.embedding import Embedding
from business_svc.usecases.operations import Operations
from business_svc.usecases.predicting import Predicting
from business_svc.usecases.scoring import Scoring


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """`wall_clock` is Unix time; `ready` whether new work is taken and can be answered now."""

    answering: Answering
    predicting: Predicting
    embedding: Embedding
    scoring: Scoring
    operations: Operations
    wall_clock: Callable[[], float]
    ready: Callable[[], bool]

    def now(self) -> int:
        return int(self.wall_clock())

    async def chat_completions(self, body: ChatCompletionBody, request: Request) -> Response:
        asked, fields = requests_http.chat_request(body), requests_http.chat_fields(body)
        call = call_of(request)
        if body.stream:
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            chunks = self._chunks(asked, fields, call, include_usage)
            return EventStream(chunks, self.answering.allowed(call))
        with in_callers_words(fields):
            answer = await answer_of(request, whole_answer(self.answering.chat(asked, call)))
        return JSONResponse(answers_http.chat_completion(answer, self.now()))

    async def _chunks(
        self, asked: GenerateRequest, fields: Renaming, call: Call, include_usage: bool
    ) -> AsyncGenerator[str, None]:
        with in_callers_words(fields):
            events = self.answering.chat(asked, call)
            async with aclosing(answers_http.chat_chunks(events, self.now(), include_usage)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def embeddings(self, body: EmbeddingsBody, request: Request) -> Response:
        asked = requests_http.embed_request(body)
        with in_callers_words(requests_http.EMBED_FIELDS):
            vectors = await answer_of(request, self.embedding.embed(asked, call_of(request)))
        as_base64 = body.encoding_format == "base64"
        name = asked.model or embedding.DEFAULT_MODEL
        return JSONResponse(answers_http.embeddings_list(name, vectors, as_base64))

    async def score(self, body: ScoreBody, request: Request) -> Response:
        asked = requests_http.score_request(body)
        scores = await answer_of(request, self.scoring.score(asked, call_of(request)))
        return JSONResponse(answers_http.scores_list(asked.model or scoring.DEFAULT_MODEL, scores))

    async def predict(self, body: PredictBody, request: Request) -> Response:
        asked = requests_http.predict_request(body)
        answer = await answer_of(request, self.predicting.predict(asked, call_of(request)))
        return JSONResponse(answers_http.prediction(answer))

    async def list_models(self) -> Response:
        cards = [answers_http.model_card(model, self.now()) for model in self.operations.models()]
        return JSONResponse({"object": "list", "data": cards})

    async def get_model(self, name: str) -> Response:
        return JSONResponse(answers_http.model_card(self.operations.model(name), self.now()))

    async def healthz(self) -> Response:
        """The process runs."""
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> Response:
        """Every model can be asked now, and new work is taken."""
        if self.ready():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503)


def build_app(
    routes: Routes, keys: KeyRing, max_body_bytes: int, version: str, observer: Observer = UNOBSERVED
) -> Door:
    app = FastAPI(
        title="Seam",
        version=version,
        description="Models behind a contract. Errors have OpenAI's shape, with the reason in lower case as `code`. "
        "`x-request-timeout: SECONDS` bounds the whole request.",
        redoc_url=None,
    )
    app.add_exception_handler(SeamError, _on_seam_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_fault)
    key = [Security(HTTPBearer(auto_error=False)), Security(APIKeyHeader(name="x-api-key", auto_error=False))]
    openai: list[str | Enum] = ["OpenAI's interface"]
    seam: list[str | Enum] = ["Seam"]
    health: list[str | Enum] = ["health"]
    app.post("/v1/chat/completions", dependencies=key, tags=openai, summary="Answer")(routes.chat_completions)
    app.post("/v1/embeddings", dependencies=key, tags=openai, summary="Vectors of texts")(routes.embeddings)
    app.get("/v1/models", dependencies=key, tags=openai, summary="Models")(routes.list_models)
    app.get("/v1/models/{name}", dependencies=key, tags=openai, summary="One model")(routes.get_model)
    app.post("/v1/score", dependencies=key, tags=seam, summary="Labels and relevance")(routes.score)
    app.post("/predict", dependencies=key, tags=seam, summary="One text in, one answer out")(routes.predict)
    app.get("/healthz", tags=health, summary="Alive")(routes.healthz)
    app.get("/readyz", tags=health, summary="Ready")(routes.readyz)
    return Door(app, keys, max_body_bytes, observer)


async def _on_seam_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SeamError)
    return _told(request, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _told(request, requests_http.validation_error(list(error.errors())))


def _told(request: Request, error: SeamError) -> Response:
    watch: CallWatch | None = request.scope.get(WATCH)
    if watch is not None:
        watch.failed(error)
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # no JSON at all: not UTF-8, or nested deeper than can be read
        return _told(request, SeamError(Reason.INVALID_FIELD, "the body cannot be read as JSON"))
    return protocol_error(error.status_code, str(error.detail))


async def _on_fault(request: Request, error: Exception) -> Response:
    """Answers; starlette raises the fault again behind it, and uvicorn logs it."""
    return _told(request, SeamError(Reason.INTERNAL_FAULT, "a fault of the server; its log has more"))
