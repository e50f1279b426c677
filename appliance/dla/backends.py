"""Accelerators by name; each backend is an optional dependency of tens of MB, imported on demand."""

from appliance.dla.base import Loader
from host_sdk.wire.errors import ConfigError

BACKENDS = ("litert", "tflite-runtime")


def load_backend(name: str) -> Loader:
    """Return what loads a model (its bytes, the largest batch wanted) into a backend.

    Raises:
        ConfigError: The backend is unknown or not installed; the message says how to install it.
    """
    if name == "litert":
        from appliance.dla import litert

        return litert.load
    if name == "tflite-runtime":
        from appliance.dla import tflite_runtime

        return tflite_runtime.load
    raise ConfigError(f"no DLA backend is called {name}; there are: {', '.join(BACKENDS)}")
