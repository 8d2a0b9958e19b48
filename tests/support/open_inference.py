"""Messages and streams of the Open Inference Protocol as a client makes and reads them."""

import struct

import grpc
import numpy as np
from inference import open_inference_pb2 as pb
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub


def set_parameter(parameter: pb.InferParameter, value: bool | int | float | str) -> None:
    match value:
        case bool():
            parameter.bool_param = value
        case int():
            parameter.int64_param = value
        case float():
            parameter.double_param = value
        case str():
            parameter.string_param = value


def infer(model, raw=None, outputs=(), request_id="", **parameters):
    """A request; `raw` maps inputs to texts, flags, or (shape, texts)."""
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    for name, value in (raw or {}).items():
        shape, elements = value if isinstance(value, tuple) else ([len(value)], value)
        if isinstance(elements[0] if elements else "", bool):
            request.inputs.add(name=name, datatype="BOOL", shape=shape)
            request.raw_input_contents.append(np.asarray(elements).tobytes())
        else:
            request.inputs.add(name=name, datatype="BYTES", shape=shape)
            encoded = [text.encode() for text in elements]
            request.raw_input_contents.append(b"".join(struct.pack("<I", len(each)) + each for each in encoded))
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in parameters.items():
        set_parameter(request.parameters[name], value)
    return request


def said(text="hello", tokens=8, **more):
    return infer("chat", {"text_input": [text]}, max_tokens=tokens, ignore_eos=True, **more)


def tensors(response):
    """The outputs by name, as arrays; text as a list."""
    read = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        match output.datatype:
            case "BYTES":
                texts = []
                while raw:
                    (length,) = struct.unpack_from("<I", raw)
                    texts.append(raw[4 : 4 + length].decode())
                    raw = raw[4 + length :]
                read[output.name] = np.asarray(texts, object).reshape(list(output.shape))
            case datatype:
                kind = {"FP32": "<f4", "UINT32": "<u4", "BOOL": "?"}[datatype]
                read[output.name] = np.frombuffer(raw, kind).reshape(list(output.shape))
    return read


def parameters(response):
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()}


class Stream:
    """A ModelStreamInfer whose responses are gathered by the id of their request."""

    def __init__(self, channel):
        self.call = GRPCInferenceServiceStub(channel).ModelStreamInfer()
        self.seen = {}

    async def send(self, *requests):
        for request in requests:
            await self.call.write(request)

    async def read(self):
        response = await self.call.read()
        if response is grpc.aio.EOF:
            return None
        self.seen.setdefault(response.infer_response.id, []).append(response)
        return response

    async def rest(self):
        await self.call.done_writing()
        while await self.read() is not None:
            pass
        return self.seen

    async def until_final(self, request_id):
        while not self.seen.get(request_id) or not is_final(self.seen[request_id][-1]):
            assert await self.read() is not None
        return self.seen[request_id]


def is_final(response):
    return parameters(response.infer_response)["triton_final_response"]


def text_of(responses):
    pieces = [tensors(response.infer_response).get("text_output") for response in responses]
    return "".join(piece[0] for piece in pieces if piece is not None)
