"""Asks a server of the Open Inference Protocol v2 and compares: ``python oip_client.py``, its task on standard input.

The task is one JSON object: ``port``, ``model``, ``inputs`` (.npy, [n, *shape]), ``expected`` (hex of each output),
``batches`` (inferences in a request), ``body`` (path, with {batch} in it) and ``seconds`` to wait for the server. For
each batch the requests are answered and compared byte for byte, the first is written to a file as the gRPC frame that
a load generator posts, and standard output gets ``{"reply_bytes": {batch: bytes of the reply's frame}}``, or
``{"error": sentence}``.
"""

import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

_PREFIX = struct.Struct(">BI")  # of a gRPC message: compressed or not, bytes
_ANSWER_S = 30
_NOT_YET = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)


def make_request(model: str, inputs: NDArray[np.generic]) -> Any:
    """Return the request for a batch, its tensor as raw bytes."""
    request = service_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add()
    tensor.name, tensor.datatype = "input", np_to_triton_dtype(inputs.dtype)
    tensor.shape.extend(inputs.shape)
    request.raw_input_contents.append(inputs.tobytes())
    return request


def await_server(stub: Any, request: Any, seconds: float) -> None:
    """Ask until the server answers.

    Raises:
        grpc.RpcError: It does not in time, or refuses.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            stub.ModelInfer(request, timeout=_ANSWER_S)
        except grpc.RpcError as error:
            if error.code() not in _NOT_YET or time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def check(stub: Any, task: dict[str, Any], inputs: NDArray[np.generic], batch: int) -> int:
    """Ask for all inputs in batches; return the bytes of a reply's frame.

    Raises:
        ValueError: An answer is not what was expected.
    """
    expected = task["expected"]
    sizes: set[int] = set()
    for begin in range(0, len(inputs) - batch + 1, batch):
        reply = stub.ModelInfer(make_request(task["model"], inputs[begin : begin + batch]), timeout=_ANSWER_S)
        if reply.raw_output_contents[0].hex() != "".join(expected[begin : begin + batch]):
            raise ValueError(f"the answers to inputs {begin} to {begin + batch - 1} are not those in process")
        sizes.add(_PREFIX.size + reply.ByteSize())
    message = make_request(task["model"], inputs[:batch]).SerializeToString()
    Path(task["body"].format(batch=batch)).write_bytes(_PREFIX.pack(0, len(message)) + message)
    return max(sizes)


def main() -> None:
    """Do the task on standard input."""
    task = json.loads(sys.stdin.readline())
    inputs = np.load(task["inputs"])
    found: dict[str, Any]
    try:
        with grpc.insecure_channel(f"127.0.0.1:{task['port']}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await_server(stub, make_request(task["model"], inputs[:1]), task["seconds"])
            found = {"reply_bytes": {batch: check(stub, task, inputs, batch) for batch in task["batches"]}}
    except ValueError as error:
        found = {"error": str(error)}
    except grpc.RpcError as error:
        found = {"error": f"the server answered {error.code().name}: {error.details()}"}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
