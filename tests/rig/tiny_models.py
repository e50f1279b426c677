"""Models of a few operators, built from the TensorFlow Lite schema, so that what they do can be counted by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import tflite
from numpy.typing import NDArray

TYPES = {
    "float32": tflite.TensorType.FLOAT32,
    "int32": tflite.TensorType.INT32,
    "int8": tflite.TensorType.INT8,
    "uint8": tflite.TensorType.UINT8,
    "bool": tflite.TensorType.BOOL,
}
Options = Callable[[flatbuffers.Builder], tuple[int, int]]  # writes a table; returns the union's type and its offset


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a graph; ``data`` makes it a constant, ``quantised`` is scale and zero point."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    data: NDArray[np.generic] | None = None
    quantised: tuple[float, int] | None = None


@dataclass(frozen=True)
class OperatorEntry:
    """An operator of a graph; its inputs and outputs are indices of tensors."""

    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Options | None = None


def build(
    tensors: Sequence[TensorEntry],
    operators: Sequence[OperatorEntry],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> bytes:
    """Return the .tflite file of a graph."""
    builder = flatbuffers.Builder(1024)
    buffers = [_buffer(builder, None)] + [_buffer(builder, tensor.data) for tensor in tensors]
    tensor_tables = [_tensor(builder, tensor, index + 1) for index, tensor in enumerate(tensors)]
    codes = sorted({operator.code for operator in operators})
    operator_tables = [_operator(builder, operator, codes.index(operator.code)) for operator in operators]
    code_tables = [_code(builder, code) for code in codes]
    lists = {
        "Tensors": _offsets(builder, tensor_tables),
        "Operators": _offsets(builder, operator_tables),
        "Inputs": _numbers(builder, inputs),
        "Outputs": _numbers(builder, outputs),
    }
    tflite.SubGraphStart(builder)
    for name, offset in lists.items():
        getattr(tflite, f"SubGraphAdd{name}")(builder, offset)
    subgraphs = _offsets(builder, [tflite.SubGraphEnd(builder)])
    code_list, buffer_list = _offsets(builder, code_tables), _offsets(builder, buffers)
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, code_list)
    tflite.ModelAddSubgraphs(builder, subgraphs)
    tflite.ModelAddBuffers(builder, buffer_list)
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def _offsets(builder: flatbuffers.Builder, tables: Sequence[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def _numbers(builder: flatbuffers.Builder, numbers: Sequence[int]) -> int:
    builder.StartVector(4, len(numbers), 4)
    for number in reversed(numbers):
        builder.PrependInt32(number)
    return int(builder.EndVector())


def _buffer(builder: flatbuffers.Builder, data: NDArray[np.generic] | None) -> int:
    offset = None
    if data is not None:
        raw = data.tobytes()
        builder.StartVector(1, len(raw), 16)
        builder.head -= len(raw)
        builder.Bytes[builder.head : builder.head + len(raw)] = raw
        offset = builder.EndVector()
    tflite.BufferStart(builder)
    if offset is not None:
        tflite.BufferAddData(builder, offset)
    return int(tflite.BufferEnd(builder))


def _tensor(builder: flatbuffers.Builder, tensor: TensorEntry, buffer: int) -> int:
    name, shape = builder.CreateString(tensor.name), _numbers(builder, tensor.shape)
    quantisation = None
    if tensor.quantised:
        builder.StartVector(4, 1, 4)
        builder.PrependFloat32(tensor.quantised[0])
        scale = builder.EndVector()
        builder.StartVector(8, 1, 8)
        builder.PrependInt64(tensor.quantised[1])
        zero_point = builder.EndVector()
        tflite.QuantizationParametersStart(builder)
        tflite.QuantizationParametersAddScale(builder, scale)
        tflite.QuantizationParametersAddZeroPoint(builder, zero_point)
        quantisation = tflite.QuantizationParametersEnd(builder)
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, TYPES[tensor.dtype])
    tflite.TensorAddBuffer(builder, buffer)
    tflite.TensorAddName(builder, name)
    if quantisation is not None:
        tflite.TensorAddQuantization(builder, quantisation)
    return int(tflite.TensorEnd(builder))


def _operator(builder: flatbuffers.Builder, operator: OperatorEntry, code_index: int) -> int:
    inputs, outputs = _numbers(builder, operator.inputs), _numbers(builder, operator.outputs)
    kind, options = operator.options(builder) if operator.options else (0, None)
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, code_index)
    tflite.OperatorAddInputs(builder, inputs)
    tflite.OperatorAddOutputs(builder, outputs)
    if options is not None:
        tflite.OperatorAddBuiltinOptionsType(builder, kind)
        tflite.OperatorAddBuiltinOptions(builder, options)
    return int(tflite.OperatorEnd(builder))


def _code(builder: flatbuffers.Builder, code: int) -> int:
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, min(code, 127))
    tflite.OperatorCodeAddVersion(builder, 1)
    tflite.OperatorCodeAddBuiltinCode(builder, code)
    return int(tflite.OperatorCodeEnd(builder))


def _fully_connected_options(builder: flatbuffers.Builder) -> tuple[int, int]:
    tflite.FullyConnectedOptionsStart(builder)
    return tflite.BuiltinOptions.FullyConnectedOptions, int(tflite.FullyConnectedOptionsEnd(builder))


def _gather_options(builder: flatbuffers.Builder) -> tuple[int, int]:
    tflite.GatherOptionsStart(builder)
    return tflite.BuiltinOptions.GatherOptions, int(tflite.GatherOptionsEnd(builder))


def _convolution_options(builder: flatbuffers.Builder) -> tuple[int, int]:
    tflite.Conv2DOptionsStart(builder)
    tflite.Conv2DOptionsAddPadding(builder, tflite.Padding.SAME)
    tflite.Conv2DOptionsAddStrideW(builder, 1)
    tflite.Conv2DOptionsAddStrideH(builder, 1)
    return tflite.BuiltinOptions.Conv2DOptions, int(tflite.Conv2DOptionsEnd(builder))


def dense(weights: NDArray[np.float64], bias: NDArray[np.float64], name: str = "answer") -> bytes:
    """Return the model y = weights · x + bias: float32 [1, inputs] to float32 [1, outputs]."""
    outputs, inputs = weights.shape
    tensors = [
        TensorEntry("x", (1, inputs)),
        TensorEntry("weights", (outputs, inputs), data=weights.astype(np.float32)),
        TensorEntry("bias", (outputs,), data=bias.astype(np.float32)),
        TensorEntry(name, (1, outputs)),
    ]
    operator = OperatorEntry(tflite.BuiltinOperator.FULLY_CONNECTED, (0, 1, 2), (3,), _fully_connected_options)
    return build(tensors, [operator], [0], [3])


def embedding(table: NDArray[np.float64]) -> bytes:
    """Return the model that looks one row of a table up: int32 [1, 1] to float32 [1, 1, columns].

    An index outside the table makes the invocation fail.
    """
    tensors = [
        TensorEntry("index", (1, 1), "int32"),
        TensorEntry("table", table.shape, data=table.astype(np.float32)),
        TensorEntry("row", (1, 1, table.shape[1])),
    ]
    operator = OperatorEntry(tflite.BuiltinOperator.GATHER, (1, 0), (2,), _gather_options)
    return build(tensors, [operator], [0], [2])


def convolution_relu() -> bytes:
    """Return a 3x3 convolution of 2 to 5 channels over 4x6, and a ReLU behind it, all float32.

    4 · 6 · 5 outputs of 3 · 3 · 2 multiply-accumulates each, and 4 · 6 · 5 elements that the ReLU writes.
    """
    tensors = [
        TensorEntry("x", (1, 4, 6, 2)),
        TensorEntry("weights", (5, 3, 3, 2), data=np.ones((5, 3, 3, 2), np.float32)),
        TensorEntry("bias", (5,), data=np.zeros(5, np.float32)),
        TensorEntry("y", (1, 4, 6, 5)),
        TensorEntry("z", (1, 4, 6, 5)),
    ]
    operators = [
        OperatorEntry(tflite.BuiltinOperator.CONV_2D, (0, 1, 2), (3,), _convolution_options),
        OperatorEntry(tflite.BuiltinOperator.RELU, (3,), (4,)),
    ]
    return build(tensors, operators, [0], [4])


def doubler(shape: tuple[int, ...], dtype: str = "float32", name: str = "twice") -> bytes:
    """Return the model y = x + x, for any shape."""

    def options(builder: flatbuffers.Builder) -> tuple[int, int]:
        tflite.AddOptionsStart(builder)
        return tflite.BuiltinOptions.AddOptions, int(tflite.AddOptionsEnd(builder))

    tensors = [TensorEntry("x", shape, dtype), TensorEntry(name, shape, dtype)]
    return build(tensors, [OperatorEntry(tflite.BuiltinOperator.ADD, (0, 0), (1,), options)], [0], [1])


def head(size: int, kept: int) -> bytes:
    """Return the model that gives the first elements of its input back: float32 [1, size] to float32 [1, kept]."""

    def options(builder: flatbuffers.Builder) -> tuple[int, int]:
        tflite.SliceOptionsStart(builder)
        return tflite.BuiltinOptions.SliceOptions, int(tflite.SliceOptionsEnd(builder))

    tensors = [
        TensorEntry("x", (1, size)),
        TensorEntry("begin", (2,), "int32", np.array([0, 0], np.int32)),
        TensorEntry("size", (2,), "int32", np.array([1, kept], np.int32)),
        TensorEntry("head", (1, kept)),
    ]
    return build(tensors, [OperatorEntry(tflite.BuiltinOperator.SLICE, (0, 1, 2), (3,), options)], [0], [3])


def comparison(size: int) -> bytes:
    """Return the model y = x < x: float32 [1, size] to bool [1, size], a type that answers cannot carry."""

    def options(builder: flatbuffers.Builder) -> tuple[int, int]:
        tflite.LessOptionsStart(builder)
        return tflite.BuiltinOptions.LessOptions, int(tflite.LessOptionsEnd(builder))

    tensors = [TensorEntry("x", (1, size)), TensorEntry("less", (1, size), "bool")]
    return build(tensors, [OperatorEntry(tflite.BuiltinOperator.LESS, (0, 0), (1,), options)], [0], [1])
