"""The models that are measured, and what they are fed: real recordings where there are, else seeded noise."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import ConfigError

INPUTS = 32  # different inputs that outputs are compared on
MODEL_FILES = {
    "kws": "kws_dscnn_int8.tflite",
    "resnet8": "resnet8_cifar10_int8.tflite",
    "vww": "vww_mobilenet_int8.tflite",
    "autoencoder": "ad_autoencoder_int8.tflite",
    "wakeword": "wakeword_stream_int8.tflite",
}
OWN = "digits"  # ships with the project
KNOWN = (*MODEL_FILES, OWN)


@dataclass(frozen=True, slots=True)
class Model:
    """A model to measure.

    Attributes:
        name: What it is called on the command line.
        path: Its .tflite file.
        recordings: File with real inputs; None where there are none.
    """

    name: str
    path: Path
    recordings: Path | None = None

    def manifest(self) -> str:
        """Return the manifest of a pipeline that runs the model on raw tensors and answers with raw tensors."""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        model = f'[model]\nfile = "{self.path.name}"\nsha256 = "{digest}"\n'
        return f'name = "{self.name}"\n{model}[input]\nkind = "tensor"\n[batch]\nmax = 32\n'

    def write_pipeline(self, directory: Path) -> Path:
        """Write the pipeline's directory below ``directory``, and return it."""
        target = directory / self.name
        target.mkdir()
        (target / "pipeline.toml").write_text(self.manifest(), encoding="utf-8")
        (target / self.path.name).write_bytes(self.path.read_bytes())
        return target


@dataclass(frozen=True, slots=True)
class Workload:
    """A model with its inputs and what it answers to them in process.

    Attributes:
        model: The model.
        inputs: [INPUTS, *shape] in the model's element type.
        expected: Bytes of each output.
        output_shape: Of one output.
        output_dtype: numpy's name of its element type.
        directory: Where files for it may be put; goes with the run.
    """

    model: Model
    inputs: NDArray[np.generic]
    expected: list[bytes]
    output_shape: tuple[int, ...]
    output_dtype: str
    directory: Path

    @property
    def inputs_file(self) -> Path:
        """Where the inputs are as .npy."""
        return self.directory / f"{self.model.name}.npy"


def find_models(directory: Path | None, chosen: Iterable[str] = ()) -> list[Model]:
    """Return the models that are there: those of the reference directory and the project's own.

    Args:
        directory: Of the reference models; None where there is none.
        chosen: Names; by default all that are there.

    Raises:
        ConfigError: A name is unknown, or its file is absent.
    """
    with resources.as_file(resources.files("appliance.models") / OWN / "model.tflite") as path:
        there = {OWN: Model(OWN, path)}
    recordings = {"kws": "kws_mfcc_on.npy", "autoencoder": "toycar_logmel_40x640.npy"}
    for name, file in MODEL_FILES.items():
        if directory and (directory / file).is_file():
            recorded = directory / recordings.get(name, "-")
            there[name] = Model(name, directory / file, recorded if recorded.is_file() else None)
    names = list(chosen)
    for name in names:
        if name not in KNOWN:
            raise ConfigError(f"no model is called {name!r}; there are {', '.join(KNOWN)}")
        if name not in there:
            raise ConfigError(
                f"model {name} is not in {directory or 'any directory'}; name its directory by --model-dir"
            )
    return [there[name] for name in KNOWN if name in there and (not names or name in names)]


def make_inputs(model: Model, tensor: Mapping[str, Any], seed: int) -> NDArray[np.generic]:
    """Return INPUTS inputs, [INPUTS, *shape]: the recordings first, noise for the rest.

    Args:
        model: The model.
        tensor: Of its input: ``shape`` without the batch, ``dtype``, ``quantisation`` (scale, zero point).
        seed: Of the noise.
    """
    shape, dtype = (INPUTS, *tensor["shape"]), np.dtype(tensor["dtype"])
    noise = np.random.default_rng(seed)
    inputs: NDArray[np.generic]
    if dtype.kind == "f":
        inputs = noise.standard_normal(shape).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        inputs = noise.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if model.recordings:
        recorded = np.load(model.recordings)
        scale, zero = tensor["quantisation"]
        if recorded.dtype != dtype:
            limits = np.iinfo(dtype)
            recorded = np.clip(np.round(recorded / scale) + zero, limits.min, limits.max).astype(dtype)
        rows = recorded.reshape(-1, *tensor["shape"])[:INPUTS]
        inputs[: len(rows)] = rows
    return inputs
