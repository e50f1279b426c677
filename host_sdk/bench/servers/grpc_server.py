"""A plain gRPC server of the Open Inference Protocol v2: ``python grpc_server.py MODEL NAME PORT``.

Synchronous, eight threads, one set of interpreters that they take in turn: on one core more of them run no faster.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from batched_model import BatchedModel
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

MAX_BATCH = 32
THREADS = 8


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated, without types
    """Answers ModelInfer for one model."""

    def __init__(self, path: str) -> None:
        self._model = BatchedModel(path, MAX_BATCH)
        self._lock = threading.Lock()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802 - gRPC's names
        """Run the model on the request's one raw tensor."""
        shape = tuple(request.inputs[0].shape)
        inputs = np.frombuffer(request.raw_input_contents[0], self._model.input["dtype"]).reshape(shape)
        with self._lock:
            outputs = self._model.invoke(inputs)
        reply = service_pb2.ModelInferResponse(model_name=request.model_name)
        tensor = reply.outputs.add()
        tensor.name, tensor.datatype = "output", np_to_triton_dtype(outputs.dtype)
        tensor.shape.extend(outputs.shape)
        reply.raw_output_contents.append(outputs.tobytes())
        return reply


def main() -> None:
    """Serve until the process is ended."""
    path, _, port = sys.argv[1:]
    server = grpc.server(ThreadPoolExecutor(THREADS))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(path), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
