"""What the engine tells of a request, as responses of this protocol."""

from collections.abc import Mapping

import numpy as np
from google.rpc import code_pb2, error_details_pb2
from inference import open_inference_pb2 as pb

from inference_svc.requests import Accepted, Finished, FinishReason, Score, Scores, Tokens, Vector, Vectors
from inference_svc.wire.calls import Answer
from inference_svc.wire.open_inference.asking import Asked
from inference_svc.wire.open_inference.tensors import (
    OutputTensor,
    counts_tensor,
    flags_tensor,
    floats_tensor,
    texts_tensor,
)
from inference_svc.wire.status_wire import status_of

VERSION = "1"  # of every model: there is one of a name
FINAL = "triton_final_response"
_REASONS: Mapping[FinishReason, str] = {
    FinishReason.STOP: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.NONE: "",
}


class Gathering:
    """All that was told of one request, up to its end. `text` is kept only where nobody is given it piece by piece."""

    def __init__(self, asked: Asked, *, keeps_text: bool) -> None:
        self._asked = asked
        self._keeps_text = keeps_text
        self._seed: int | None = None
        self._pieces: list[str] = []
        self._vectors: list[Vector] = []
        self._scores: list[Score] = []
        self._finished: Finished | None = None

    def take(self, answer: Answer) -> None:
        match answer:
            case Accepted():
                self._seed = answer.seed
            case Tokens():
                if self._keeps_text:
                    self._pieces.append(answer.text)
            case Vectors():
                self._vectors.extend(answer.vectors)
            case Scores():
                self._scores.extend(answer.scores)
            case Finished():
                self._finished = answer

    def write(self, message: pb.ModelInferRequest) -> pb.ModelInferResponse:
        """Everything that was asked for, after the end."""
        assert self._finished is not None
        response = _response(message)
        if self._vectors:
            tensors = self._vector_tensors()
        elif self._scores:
            tensors = self._score_tensors()
        else:
            tensors = self._text_tensors(self._finished)
        for name in self._asked.outputs:
            _add(response, name, tensors[name])
        if self._seed is not None:
            response.parameters["seed"].uint64_param = self._seed
        if self._finished.stop_string:
            response.parameters["stop_string"].string_param = self._finished.stop_string
        return response

    def _text_tensors(self, finished: Finished) -> Mapping[str, OutputTensor]:
        shape = self._asked.shape
        return {
            "text_output": texts_tensor(["".join(self._pieces)], shape),
            "finish_reason": texts_tensor([_REASONS[finished.reason]], shape),
            "num_input_tokens": counts_tensor([finished.usage.input_token_count], shape),
            "num_output_tokens": counts_tensor([finished.usage.output_token_count], shape),
        }

    def _vector_tensors(self) -> Mapping[str, OutputTensor]:
        ordered = sorted(self._vectors, key=lambda vector: vector.index)
        return {"embedding": floats_tensor(np.stack([vector.values for vector in ordered])), **self._about(ordered)}

    def _score_tensors(self) -> Mapping[str, OutputTensor]:
        ordered = sorted(self._scores, key=lambda score: score.index)
        values = [[value for _, value in score.values] for score in ordered]
        labels = [label for label, _ in ordered[0].values]
        return {
            "scores": floats_tensor(np.asarray(values, np.float32)),
            "labels": texts_tensor(labels, (len(labels),)),
            **self._about(ordered),
        }

    def _about(self, results: list[Vector] | list[Score]) -> Mapping[str, OutputTensor]:
        shape = self._asked.shape
        return {
            "input_token_count": counts_tensor([each.input_token_count for each in results], shape),
            "truncated": flags_tensor([each.truncated for each in results], shape),
        }


def write_piece(message: pb.ModelInferRequest, asked: Asked, text: str) -> pb.ModelInferResponse:
    response = _response(message)
    _add(response, "text_output", texts_tensor([text], asked.shape))
    return response


def in_stream(response: pb.ModelInferResponse, *, final: bool) -> pb.ModelStreamInferResponse:
    response.parameters[FINAL].bool_param = final
    return pb.ModelStreamInferResponse(infer_response=response)


def write_empty_end(message: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
    return in_stream(_response(message), final=True)


def write_error(message: pb.ModelInferRequest, error: Exception) -> pb.ModelStreamInferResponse:
    """The end of a request that failed. A person reads the words; a program reads the parameters beside them."""
    status = status_of(error)
    told = write_empty_end(message)
    code = code_pb2.Code.Name(status.code)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    parameters = told.infer_response.parameters
    parameters["error_code"].string_param = code
    for detail in status.details:
        if detail.Unpack(info):
            parameters["error_reason"].string_param = info.reason
        elif detail.Unpack(retry):
            parameters["retry_after_ms"].int64_param = retry.retry_delay.ToMilliseconds()
    told.error_message = f"{code} {info.reason}: {status.message}"
    return told


def _response(message: pb.ModelInferRequest) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(model_name=message.model_name, model_version=VERSION, id=message.id)


def _add(response: pb.ModelInferResponse, name: str, tensor: OutputTensor) -> None:
    response.outputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
    response.raw_output_contents.append(tensor.raw)
