"""tflite-runtime, the second DLA backend: for comparing with devices that run it. Python 3.11 and numpy 1 only."""

from importlib.metadata import version

from appliance.dla.base import Accelerator
from appliance.dla.interpreter import InterpreterAccelerator
from host_sdk.wire.errors import ConfigError


def load(model: bytes, max_batch: int) -> Accelerator:
    """Load a .tflite model into tflite-runtime, one thread.

    Raises:
        ConfigError: tflite-runtime is not installed, or the model does not fit.
    """
    try:
        from tflite_runtime.interpreter import Interpreter
    except ImportError as error:
        raise ConfigError(
            f"tflite-runtime is not installed ({error}): on Python 3.11, in an environment of its own, "
            "pip install 'napu[tflite-runtime]'"
        ) from None
    return InterpreterAccelerator(
        lambda content: Interpreter(model_content=content, num_threads=1),
        f"tflite-runtime {version('tflite-runtime')}",
        model,
        max_batch,
    )
