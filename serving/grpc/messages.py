"""Messages and service of the protocol, in a descriptor pool of their own.

The tables below say what ``open_inference_grpc.proto`` says (Open Inference Protocol, version 2, with
Triton's model repository extension and the ``parameters`` of metadata that MLServer has). Built here
instead of generated: the generated module of any client, which defines the same names, may then
live in the same process, and there is no code to keep in step with a compiler.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

#: Methods: each takes <name>Request and answers with <name>Response.
METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)

# Message: fields in the order of their numbers, from 1. A type is a scalar's name or a message's; "repeated",
# "map" (from string) and "one" (member of the message's oneof) stand before it.
_PARAMETER = "map InferParameter"
_MESSAGES: dict[str, dict[str, str]] = {
    "InferParameter": {
        "bool_param": "one bool",
        "int64_param": "one int64",
        "string_param": "one string",
        "double_param": "one double",
        "uint64_param": "one uint64",
    },
    "ModelRepositoryParameter": {
        "bool_param": "one bool",
        "int64_param": "one int64",
        "string_param": "one string",
        "bytes_param": "one bytes",
    },
    "InferTensorContents": {
        "bool_contents": "repeated bool",
        "int_contents": "repeated int32",
        "int64_contents": "repeated int64",
        "uint_contents": "repeated uint32",
        "uint64_contents": "repeated uint64",
        "fp32_contents": "repeated float",
        "fp64_contents": "repeated double",
        "bytes_contents": "repeated bytes",
    },
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": "bool"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": "bool"},
    "ModelReadyRequest": {"name": "string", "version": "string"},
    "ModelReadyResponse": {"ready": "bool"},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {"name": "string", "version": "string", "extensions": "repeated string"},
    "ModelMetadataRequest": {"name": "string", "version": "string"},
    "ModelMetadataResponse": {
        "name": "string",
        "versions": "repeated string",
        "platform": "string",
        "inputs": "repeated ModelMetadataResponse.TensorMetadata",
        "outputs": "repeated ModelMetadataResponse.TensorMetadata",
        "parameters": _PARAMETER,
    },
    "ModelMetadataResponse.TensorMetadata": {
        "name": "string",
        "datatype": "string",
        "shape": "repeated int64",
        "parameters": _PARAMETER,
    },
    "ModelInferRequest": {
        "model_name": "string",
        "model_version": "string",
        "id": "string",
        "parameters": _PARAMETER,
        "inputs": "repeated ModelInferRequest.InferInputTensor",
        "outputs": "repeated ModelInferRequest.InferRequestedOutputTensor",
        "raw_input_contents": "repeated bytes",
    },
    "ModelInferRequest.InferInputTensor": {
        "name": "string",
        "datatype": "string",
        "shape": "repeated int64",
        "parameters": _PARAMETER,
        "contents": "InferTensorContents",
    },
    "ModelInferRequest.InferRequestedOutputTensor": {"name": "string", "parameters": _PARAMETER},
    "ModelInferResponse": {
        "model_name": "string",
        "model_version": "string",
        "id": "string",
        "parameters": _PARAMETER,
        "outputs": "repeated ModelInferResponse.InferOutputTensor",
        "raw_output_contents": "repeated bytes",
    },
    "ModelInferResponse.InferOutputTensor": {
        "name": "string",
        "datatype": "string",
        "shape": "repeated int64",
        "parameters": _PARAMETER,
        "contents": "InferTensorContents",
    },
    "RepositoryIndexRequest": {"repository_name": "string", "ready": "bool"},
    "RepositoryIndexResponse": {"models": "repeated RepositoryIndexResponse.ModelIndex"},
    "RepositoryIndexResponse.ModelIndex": {
        "name": "string",
        "version": "string",
        "state": "string",
        "reason": "string",
    },
    "RepositoryModelLoadRequest": {
        "repository_name": "string",
        "model_name": "string",
        "parameters": "map ModelRepositoryParameter",
    },
    "RepositoryModelLoadResponse": {},
    "RepositoryModelUnloadRequest": {
        "repository_name": "string",
        "model_name": "string",
        "parameters": "map ModelRepositoryParameter",
    },
    "RepositoryModelUnloadResponse": {},
}

_SCALARS = {
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "float": FieldDescriptorProto.TYPE_FLOAT,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
}


# A ModelInferRequest whose inputs stay as they came: on the wire a message and bytes are alike. Python pays for
# each message that it looks into, so what is the same in request after request is better not looked into.
_VIEW = {
    "model_name": "string",
    "model_version": "string",
    "id": "string",
    "parameters": "repeated bytes",
    "inputs": "repeated bytes",
    "outputs": "repeated bytes",
    "raw_input_contents": "repeated bytes",
}


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="open_inference_grpc.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, DescriptorProto] = {}
    for path, fields in _MESSAGES.items():
        outer, _, name = path.rpartition(".")
        message = made[outer].nested_type.add() if outer else file.message_type.add()
        message.name = name
        made[path] = message
        for number, (field, kind) in enumerate(fields.items(), start=1):
            _add_field(message, path, field, number, kind)
    service = file.service.add(name=SERVICE.removeprefix(f"{PACKAGE}."))
    for method in METHODS:
        service.method.add(
            name=method, input_type=f".{PACKAGE}.{method}Request", output_type=f".{PACKAGE}.{method}Response"
        )
    return file


def _add_field(message: DescriptorProto, path: str, name: str, number: int, kind: str) -> None:
    *how, of = kind.split()
    field = message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
    if how in (["repeated"], ["map"]):
        field.label = FieldDescriptorProto.LABEL_REPEATED
    if how == ["one"]:
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if how == ["map"]:
        # On the wire a map is a repeated message of key and value.
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add_field(entry, "", "key", 1, "string")
        _add_field(entry, "", "value", 2, of)
        of = f"{path}.ParametersEntry"
    if of in _SCALARS:
        field.type = _SCALARS[of]
    else:
        field.type = FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{of}"


def _pool() -> DescriptorPool:
    """Ours, and those of the standard services that the server offers beside it, for reflection."""
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    pool = DescriptorPool()
    for descriptor in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(descriptor.serialized_pb)
    pool.Add(_file())
    return pool


def _view() -> Any:
    file = FileDescriptorProto(name="view.proto", package="view", syntax="proto3")
    message = file.message_type.add(name="ModelInferRequest")
    for number, (field, kind) in enumerate(_VIEW.items(), start=1):
        _add_field(message, "", field, number, kind)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("view.ModelInferRequest"))


POOL = _pool()


def _message(name: str) -> Any:
    return GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


REQUESTS = {method: _message(f"{method}Request") for method in METHODS}
#: Reads the bytes of a ModelInferRequest without looking into its inputs and outputs.
REQUEST_VIEW = _view()
RESPONSES = {method: _message(f"{method}Response") for method in METHODS}
