"""Tensors as they are on the wire: shapes, and elements either typed or as raw bytes.

Raw elements are little-endian and in row-major order; an element of BYTES stands behind its length in four bytes.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from inference import open_inference_pb2 as pb

from inference_svc.errors import FeatureNotAvailable, InvalidField, TooManyTexts
from inference_svc.wire.open_inference.signature import BOOL, BYTES, FP32, UINT32, TensorSpec

SHOWN = 100  # characters of a caller's word in an error
_LENGTH = struct.Struct("<I")
_MAX_DIMENSIONS = 8


# --- what is asked ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GivenTensor:
    """An input whose shape and datatype are those that the model takes. `raw` where the message has it so."""

    name: str
    shape: tuple[int, ...]
    contents: pb.InferTensorContents
    raw: bytes | None

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def read_inputs(request: pb.ModelInferRequest, specs: Sequence[TensorSpec], most: int) -> dict[str, GivenTensor]:
    """The inputs by name, none read yet; each has at most `most` elements."""
    known = {spec.name: spec for spec in specs}
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise InvalidField.of_field(
            "raw_input_contents", f"has {len(raws)} entries for {len(request.inputs)} inputs; one for each, or none"
        )
    given: dict[str, GivenTensor] = {}
    for index, tensor in enumerate(request.inputs):
        spec = known.get(tensor.name)
        if spec is None:
            there = ", ".join(known)
            raise InvalidField.of_field(
                f"inputs[{index}]", f"{tensor.name[:SHOWN]!r} is no input of this model: {there}"
            )
        if spec.name in given:
            raise InvalidField.of_field(f"inputs[{index}]", f"{spec.name} is there twice")
        _check_plain(spec.name, tensor.parameters)
        given[spec.name] = _declared(tensor, spec, most, raws[index] if raws else None)
    for spec in specs:
        if not spec.optional and spec.name not in given:
            raise InvalidField.of_field(spec.name, "is missing among the inputs")
    return given


def read_texts(tensor: GivenTensor) -> tuple[str, ...]:
    """The elements of a BYTES tensor as text."""
    if tensor.raw is None:
        elements: Sequence[bytes] = tensor.contents.bytes_contents
        _check_count(tensor, len(elements))
    else:
        elements = decode_bytes(tensor.name, tensor.raw, tensor.count)
    return tuple(_text(f"{tensor.name}[{index}]", element) for index, element in enumerate(elements))


def read_text(tensor: GivenTensor) -> str:
    (text,) = read_texts(tensor)
    return text


def read_flag(tensor: GivenTensor) -> bool:
    if tensor.raw is None:
        _check_count(tensor, len(tensor.contents.bool_contents))
        return tensor.contents.bool_contents[0]
    _check_count(tensor, len(tensor.raw))
    return tensor.raw != b"\x00"


def decode_bytes(name: str, raw: bytes, count: int) -> list[bytes]:
    """Exactly `count` elements. Raises InvalidField with the place where they end too early or too late."""
    elements = []
    at = 0
    for index in range(count):
        begin = at + _LENGTH.size
        end = begin + _LENGTH.unpack_from(raw, at)[0] if begin <= len(raw) else begin
        if end > len(raw):
            raise InvalidField.of_field(name, f"its raw contents end within element {index} of {count}")
        elements.append(raw[begin:end])
        at = end
    if at != len(raw):
        raise InvalidField.of_field(name, f"its raw contents have {len(raw) - at} bytes after its {count} elements")
    return elements


def _declared(
    tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec, most: int, raw: bytes | None
) -> GivenTensor:
    name, shape = spec.name, tuple(tensor.shape)
    if tensor.datatype != spec.datatype:
        raise InvalidField.of_field(name, f"must be {spec.datatype}, not {tensor.datatype[:SHOWN]!r}")
    if not 1 <= len(shape) <= 2 or (len(shape) == 2 and shape[1] != 1) or shape[0] < 0:
        shown = list(shape[:_MAX_DIMENSIONS])
        raise InvalidField.of_field(name, f"must have the shape [n] or [n, 1], not {shown}")
    if shape[0] > most:
        raise TooManyTexts.of_field(name, f"has {shape[0]}; one request takes at most {most}")
    if spec.shape == (1,) and shape[0] != 1:
        raise InvalidField.of_field(name, "must have one element")
    if raw is not None and tensor.HasField("contents"):
        raise InvalidField.of_field(name, "has contents beside raw_input_contents; either, not both")
    return GivenTensor(name, shape, tensor.contents, raw)


def _check_count(tensor: GivenTensor, found: int) -> None:
    if found != tensor.count:
        raise InvalidField.of_field(
            tensor.name, f"has {found} elements, and its shape {list(tensor.shape)} asks for {tensor.count}"
        )


def _check_plain(name: str, parameters: Mapping[str, pb.InferParameter]) -> None:
    for parameter in parameters:
        raise FeatureNotAvailable.of_field(name, f"its parameter {parameter[:SHOWN]!r} is not available here")


def _text(field: str, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidField.of_field(field, f"is no UTF-8 at byte {error.start}") from None


# --- what is told ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OutputTensor:
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def wanted_outputs(request: pb.ModelInferRequest, specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Names of the outputs to send, in their order; all where the request names none."""
    known = [spec.name for spec in specs]
    wanted: list[str] = []
    for index, output in enumerate(request.outputs):
        if output.name not in known:
            there = ", ".join(known)
            raise InvalidField.of_field(
                f"outputs[{index}]", f"{output.name[:SHOWN]!r} is no output of this model: {there}"
            )
        if output.name in wanted:
            raise InvalidField.of_field(f"outputs[{index}]", f"{output.name} is there twice")
        _check_plain(output.name, output.parameters)
        wanted.append(output.name)
    return tuple(wanted or known)


def texts_tensor(texts: Sequence[str], shape: tuple[int, ...]) -> OutputTensor:
    return OutputTensor(BYTES, shape, encode_bytes(text.encode() for text in texts))


def floats_tensor(values: npt.NDArray[np.float32]) -> OutputTensor:
    return OutputTensor(FP32, values.shape, values.astype("<f4", copy=False).tobytes())


def counts_tensor(counts: Sequence[int], shape: tuple[int, ...]) -> OutputTensor:
    return OutputTensor(UINT32, shape, np.asarray(counts, "<u4").tobytes())


def flags_tensor(flags: Sequence[bool], shape: tuple[int, ...]) -> OutputTensor:
    return OutputTensor(BOOL, shape, np.asarray(flags, np.bool_).tobytes())


def encode_bytes(elements: Iterable[bytes]) -> bytes:
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))
