"""LiteRT, the default DLA backend."""

from importlib.metadata import version

from appliance.dla.base import Accelerator
from appliance.dla.interpreter import InterpreterAccelerator
from host_sdk.wire.errors import ConfigError


def load(model: bytes, max_batch: int) -> Accelerator:
    """Load a .tflite model into LiteRT, one thread.

    Raises:
        ConfigError: LiteRT is not installed, or the model does not fit.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ConfigError(f"LiteRT is not installed ({error}): pip install 'napu[appliance]'") from None
    return InterpreterAccelerator(
        lambda content: Interpreter(model_content=content, num_threads=1),
        f"litert {version('ai-edge-litert')}",
        model,
        max_batch,
    )
