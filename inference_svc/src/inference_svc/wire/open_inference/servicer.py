"""GRPCInferenceService on grpc.aio: each method reads, asks the rooms behind, writes, and tells errors."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import cast

from inference import open_inference_pb2 as pb
from inference import open_inference_pb2_grpc as open_inference_grpc

from inference_svc.catalogue import Catalogue
from inference_svc.errors import FieldViolation, InvalidField, ModelNotFound
from inference_svc.requests import GenerateWork, ModelInfo, Tokens
from inference_svc.residency import Residency
from inference_svc.wire.calls import Calls
from inference_svc.wire.model_control import changeable
from inference_svc.wire.open_inference.answering import (
    VERSION,
    Gathering,
    in_stream,
    write_empty_end,
    write_error,
    write_piece,
)
from inference_svc.wire.open_inference.asking import Asked, Moment, read_infer
from inference_svc.wire.open_inference.describing import (
    EXTENSIONS,
    READY_STATES,
    write_config,
    write_index,
    write_metadata,
)
from inference_svc.wire.open_inference.field_names import naming_tensors
from inference_svc.wire.open_inference.repository import UNLOAD_GRACE, check_repository, check_unload, read_load
from inference_svc.wire.open_inference.streaming import answer_side_by_side
from inference_svc.wire.open_inference.tensors import SHOWN
from inference_svc.wire.reading import readable
from inference_svc.wire.telling import Call, telling

SERVER_NAME = "seam-inference"


class OpenInferenceServicer(open_inference_grpc.GRPCInferenceServiceServicer):
    """`version` is the server's; `may_change`: whether callers may change what is served."""

    def __init__(
        self,
        calls: Calls,
        catalogue: Catalogue,
        residency: Residency | None,
        clock: Callable[[], float],
        version: str,
        *,
        may_change: bool,
    ) -> None:
        self._calls = calls
        self._catalogue = catalogue
        self._residency = residency
        self._clock = clock
        self._version = version
        self._may_change = may_change

    # --- the server and its models -----------------------------------------------------------------------------------

    async def ServerLive(self, request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, call: Call) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._catalogue.all_ready and not self._calls.leaving.is_set())

    async def ModelReady(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        states = {entry.info.name: entry.state for entry in self._catalogue.entries()}
        known = request.version in ("", VERSION)
        ready = known and not self._calls.leaving.is_set() and states.get(request.name) in READY_STATES
        return pb.ModelReadyResponse(ready=ready)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, call: Call) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=self._version, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, call: Call) -> pb.ModelMetadataResponse:
        async with telling(call):
            return write_metadata(self._info(request.name, request.version, "name", "version"))
        raise AssertionError("telling() ends the call")

    async def ModelConfig(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:
        async with telling(call):
            info = self._info(request.name, request.version, "name", "version")
            return pb.ModelConfigResponse(config=write_config(info))
        raise AssertionError("telling() ends the call")

    # --- inference ---------------------------------------------------------------------------------------------------

    async def ModelInfer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        async with telling(call):
            asked = self._read(request, call)
            if asked.in_pieces:
                raise InvalidField.of_field("stream", "needs ModelStreamInfer: this call has one response")
            gathering = Gathering(asked, keeps_text=True)
            with naming_tensors(asked.prompt_tensor):
                async with aclosing(self._calls.answers(asked.request)) as answers:
                    async for answer in answers:
                        gathering.take(answer)
            return gathering.write(request)
        raise AssertionError("telling() ends the call")

    async def ModelStreamInfer(self, requests: AsyncIterator[pb.ModelInferRequest], call: Call) -> None:  # type: ignore[override]
        arriving = cast("AsyncGenerator[pb.ModelInferRequest, None]", aiter(requests))
        async with telling(call), aclosing(arriving), aclosing(readable(arriving)) as messages:
            respond = partial(self._responses, call=call)
            await answer_side_by_side(messages, respond, call.write, self._calls.leaving)

    async def _responses(
        self, message: pb.ModelInferRequest, call: Call
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        try:
            asked = self._read(message, call)
            in_pieces = isinstance(asked.request.work, GenerateWork) and asked.in_pieces is not False
            gathering = Gathering(asked, keeps_text=not in_pieces)
            gives_pieces = in_pieces and "text_output" in asked.outputs
            with naming_tensors(asked.prompt_tensor):
                async with aclosing(self._calls.answers(asked.request)) as answers:
                    async for answer in answers:
                        gathering.take(answer)
                        if gives_pieces and isinstance(answer, Tokens) and answer.text:
                            yield in_stream(write_piece(message, asked, answer.text), final=False)
            yield in_stream(gathering.write(message), final=not asked.tells_end)
            if asked.tells_end:
                yield write_empty_end(message)
        except Exception as error:  # this request's own failure
            yield write_error(message, error)

    def _read(self, message: pb.ModelInferRequest, call: Call) -> Asked:
        info = self._info(message.model_name, message.model_version, "model_name", "model_version")
        return read_infer(message, info, self._moment(call))

    def _moment(self, call: Call) -> Moment:
        headers = dict(call.invocation_metadata() or ())
        return Moment(
            now=self._clock(),
            call_seconds=call.time_remaining(),
            traceparent=_header(headers.get("traceparent")),
            tracestate=_header(headers.get("tracestate")),
        )

    def _info(self, name: str, version: str, name_field: str, version_field: str) -> ModelInfo:
        """Raises ModelNotFound, ModelNotReady."""
        self._catalogue.entry(name, name_field)
        if version not in ("", VERSION):
            description = f"model {name} has the version {VERSION}, not {version[:SHOWN]!r}"
            raise ModelNotFound(
                f"{version_field}: {description}", violations=[FieldViolation(version_field, description)]
            )
        return self._catalogue.loaded(name).info

    # --- the repository ----------------------------------------------------------------------------------------------

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, call: Call) -> pb.RepositoryIndexResponse:
        async with telling(call):
            check_repository(request.repository_name)
            return write_index(self._catalogue.entries(), only_ready=request.ready)
        raise AssertionError("telling() ends the call")

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, call: Call
    ) -> pb.RepositoryModelLoadResponse:
        async with telling(call):
            residency = self._changeable()
            check_repository(request.repository_name)
            with naming_tensors():
                await self._load(request, residency)
            return pb.RepositoryModelLoadResponse()
        raise AssertionError("telling() ends the call")

    async def _load(self, request: pb.RepositoryModelLoadRequest, residency: Residency) -> None:
        spec = read_load(request)
        if spec is None:
            self._catalogue.entry(request.model_name, "model_name")
            await residency.wake(request.model_name)
            return
        async with aclosing(residency.load(spec).progresses()) as progresses:
            async for _ in progresses:
                pass

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        async with telling(call):
            residency = self._changeable()
            check_repository(request.repository_name)
            check_unload(request)
            self._catalogue.entry(request.model_name, "model_name")
            await residency.unload(request.model_name, UNLOAD_GRACE)
            return pb.RepositoryModelUnloadResponse()
        raise AssertionError("telling() ends the call")

    def _changeable(self) -> Residency:
        return changeable(self._residency, may_change=self._may_change)


def _header(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else ""
