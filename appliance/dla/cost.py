"""How much work a model is: multiply-accumulates of one inference, counted from its graph."""

import struct

import numpy as np
import tflite

from host_sdk.wire.errors import ConfigError

_OPERATORS = tflite.BuiltinOperator


def count_macs(model: bytes) -> int:
    """Return the multiply-accumulates of one inference of a .tflite model (its first subgraph, batch 1).

    Convolutions and matrix products count by their definition; every other operator counts one for each element
    that it writes, so that a graph of cheap operators is not free.

    Raises:
        ConfigError: The file is no TensorFlow Lite flatbuffer.
    """
    if model[4:8] != b"TFL3":
        raise ConfigError("the model is no TensorFlow Lite file: its identifier is not TFL3")
    try:
        root = tflite.Model.GetRootAsModel(model, 0)
        graph = root.Subgraphs(0)
        shapes = [_shape(graph.Tensors(index)) for index in range(graph.TensorsLength())]
        return sum(_operator_macs(root, graph.Operators(index), shapes) for index in range(graph.OperatorsLength()))
    except (struct.error, IndexError, TypeError, ValueError, AttributeError) as error:
        # A flatbuffer is offsets: in a damaged one they lead anywhere, and the accessors fail in any of these ways.
        raise ConfigError(f"the model's graph cannot be read: {error}") from None


def _shape(tensor: tflite.Tensor) -> tuple[int, ...]:
    return tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))


def _operator_macs(root: tflite.Model, operator: tflite.Operator, shapes: list[tuple[int, ...]]) -> int:
    entry = root.OperatorCodes(operator.OpcodeIndex())
    # Files older than schema 3a keep the code in the deprecated byte-wide field.
    code = int(max(entry.BuiltinCode(), entry.DeprecatedBuiltinCode()))
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
    return int(np.prod(shape, dtype=np.int64))
