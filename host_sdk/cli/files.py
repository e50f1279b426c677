"""Inputs of inferences as files."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from host_sdk.streams import Data
from host_sdk.wire.errors import ConfigError


def read_input(file: Path) -> Data:
    """Return what a file has for a pipeline: an array where it is .npy, else its bytes.

    Raises:
        ConfigError: It cannot be read, or is no array.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    if file.suffix != ".npy":
        return content
    try:
        array: np.ndarray[Any, Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ConfigError(f"{file} is no .npy array: {error}") from None
    return array
