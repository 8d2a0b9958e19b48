"""Messages of the Open Inference Protocol as a client makes them."""

from inference import open_inference_pb2 as pb


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
