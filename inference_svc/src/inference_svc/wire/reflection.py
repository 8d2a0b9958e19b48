"""Server reflection under both of its names. The package that ships it knows v1alpha only; v1 has the same messages
under another package name, so the same servicer answers for both."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import aio as reflection_aio

File = Any  # a FileDescriptor, which different generated stubs take from different modules

_OLD = reflection_pb2.DESCRIPTOR.package
_NEW = "grpc.reflection.v1"


def add_reflection(server: grpc.aio.Server, files: Iterable[File]) -> None:
    """Answers for every service that these files define, and for reflection itself."""
    pool = descriptor_pool.DescriptorPool()
    names = []
    for file in (*files, reflection_pb2.DESCRIPTOR):
        _add_file(pool, file)
        names += [service.full_name for service in file.services_by_name.values()]
    renamed = _renamed(reflection_pb2.DESCRIPTOR)
    pool.Add(renamed)
    names += [f"{_NEW}.{service.name}" for service in renamed.service]
    servicer = reflection_aio.ReflectionServicer(names, pool=pool)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"{_NEW}.ServerReflection", methods),))


def _add_file(pool: descriptor_pool.DescriptorPool, file: File) -> None:
    try:
        pool.FindFileByName(file.name)
    except KeyError:
        for needed in file.dependencies:
            _add_file(pool, needed)
        pool.AddSerializedFile(file.serialized_pb)


def _renamed(file: File) -> descriptor_pb2.FileDescriptorProto:
    """The same file under the new package, in the place where the gRPC project keeps it."""
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    renamed = descriptor_pb2.FileDescriptorProto()
    json_format.Parse(json_format.MessageToJson(proto).replace(_OLD, _NEW), renamed)
    renamed.name = f"{_NEW.replace('.', '/')}/reflection.proto"
    return renamed
