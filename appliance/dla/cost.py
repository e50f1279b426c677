"""How much work a model is: multiply-accumulates of one inference, counted from its graph."""

import math
import struct

import tflite

from host_sdk.wire.errors import ConfigError

_OPERATORS = tflite.BuiltinOperator
# Bounds of the work of counting: a flatbuffer may refer to one large vector any number of times.
MAX_PARTS = 16384  # tensors, and operators
MAX_OPERANDS = 256
MAX_RANK = 8
MAX_MACS = 1 << 62  # what control messages carry


def count_macs(model: bytes) -> int:
    """Return the multiply-accumulates of one inference of a .tflite model (its first subgraph, batch 1).

    Convolutions and matrix products count by their definition; every other operator counts one for each element
    that it writes, so that a graph of cheap operators is not free.

    Raises:
        ConfigError: The file is no TensorFlow Lite flatbuffer, or one of an absurd size.
    """
    if model[4:8] != b"TFL3":
        raise ConfigError("the model is no TensorFlow Lite file: its identifier is not TFL3")
    try:
        root = tflite.Model.GetRootAsModel(model, 0)
        graph = root.Subgraphs(0)
        tensors, operators = graph.TensorsLength(), graph.OperatorsLength()
        _check(max(tensors, operators) <= MAX_PARTS, f"{tensors} tensors and {operators} operators")
        shapes = [_shape(graph.Tensors(index)) for index in range(tensors)]
        macs = sum(_operator_macs(root, graph.Operators(index), shapes) for index in range(operators))
        _check(macs < MAX_MACS, f"{macs:.3g} multiply-accumulates")
        return macs
    except (struct.error, IndexError, TypeError, ValueError, AttributeError) as error:
        # A flatbuffer is offsets: in a damaged one they lead anywhere, and the accessors fail in any of these ways.
        raise ConfigError(f"the model's graph cannot be read: {error}") from None


def _shape(tensor: tflite.Tensor) -> tuple[int, ...]:
    _check(tensor.ShapeLength() <= MAX_RANK, f"a tensor of {tensor.ShapeLength()} dimensions")
    shape = tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
    _check(min(shape, default=0) >= 0, f"a tensor of shape {shape}")
    return shape


def _operator_macs(root: tflite.Model, operator: tflite.Operator, shapes: list[tuple[int, ...]]) -> int:
    entry = root.OperatorCodes(operator.OpcodeIndex())
    # Files older than schema 3a keep the code in the deprecated byte-wide field.
    code = int(max(entry.BuiltinCode(), entry.DeprecatedBuiltinCode()))
    operands = operator.InputsLength() + operator.OutputsLength()
    _check(operands <= MAX_OPERANDS, f"an operator with {operands} operands")
    inputs = [shapes[int(operator.Inputs(index))] for index in range(operator.InputsLength())]
    written = sum(_elements(shapes[int(operator.Outputs(index))]) for index in range(operator.OutputsLength()))
    if code == _OPERATORS.CONV_2D:  # weights: out, height, width, in
        return written * _elements(inputs[1][1:])
    if code == _OPERATORS.DEPTHWISE_CONV_2D:  # weights: 1, height, width, channels
        return written * _elements(inputs[1][1:3])
    if code == _OPERATORS.FULLY_CONNECTED:  # weights: out, in
        return written * inputs[1][1]
    if code == _OPERATORS.TRANSPOSE_CONV:  # weights: out, height, width, in; every input element meets each
        weights = inputs[1]
        return _elements(inputs[2]) * _elements(weights[:3])
    if code == _OPERATORS.BATCH_MATMUL:
        return written * inputs[0][-1]
    return written


def _elements(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def _check(good: bool, found: str) -> None:
    if not good:
        raise ValueError(f"it has {found}")
