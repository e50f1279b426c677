"""The stages that a manifest can name, and how each is built from its parameters."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from appliance.dla.base import TensorSpec
from appliance.engines import vector
from appliance.engines.media import Step
from appliance.pipelines.manifest import StageEntry, Table
from appliance.pipelines.package import Package
from host_sdk.wire.errors import ConfigError

Builder = TypeVar("Builder")
Transform = Callable[[NDArray[np.generic]], NDArray[np.generic]]
Tensors = dict[str, NDArray[np.generic]]
PostTransform = Callable[[Tensors], Tensors]
MAX_CHANNELS = 4  # that a stage can have numbers for, one each
LABEL_BYTES = 64  # longest label, UTF-8


@dataclass(frozen=True, slots=True)
class Flow:
    """What flows between two stages: a tensor of this dtype and shape for each request."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


# ---- image stages: decoded image to decoded image ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """The image stages so far, and what is known of the image after them."""

    steps: tuple[Step, ...] = ()
    mode: str | None = None
    size: tuple[int, int] | None = None  # height, width


def _colour(plan: ImagePlan, table: Table) -> ImagePlan:
    mode = table.text("mode")
    from appliance.engines import image  # this and the next: it brings Pillow, which tensors do not need

    return replace(plan, steps=(*plan.steps, image.colour(mode)), mode=mode)


def _crop(plan: ImagePlan, _: Table) -> ImagePlan:
    size = (min(plan.size),) * 2 if plan.size else None
    from appliance.engines import image

    return replace(plan, steps=(*plan.steps, image.centre_crop()), size=size)


def _resize(plan: ImagePlan, table: Table) -> ImagePlan:
    width, height = table.number("width", 1, 4096), table.number("height", 1, 4096)
    from appliance.engines import image

    step = image.resize(width, height, table.text("filter", default="bilinear"))
    return replace(plan, steps=(*plan.steps, step), size=(height, width))


IMAGE_STAGES: dict[str, Callable[[ImagePlan, Table], ImagePlan]] = {
    "colour": _colour,
    "crop": _crop,
    "resize": _resize,
}

# ---- tensor stages before the model: elementwise, so that over uint8 they fold into a table -----------------------


def _normalise(flow: Flow, _: TensorSpec, table: Table) -> tuple[Transform, Flow]:
    mean = np.array(table.numbers("mean"), np.float32)
    scale = np.array(table.numbers("scale"), np.float32)
    channels = flow.shape[-1] if flow.shape else 1
    if len(mean) != len(scale) or len(mean) not in (1, channels):
        raise ConfigError(f"normalise: mean and scale need 1 or {channels} numbers, as many as channels")
    if not np.isfinite(mean).all() or not np.isfinite(scale).all() or not scale.all():
        raise ConfigError("normalise: mean and scale must be finite, and scale not 0")
    return lambda batch: vector.normalise(batch, mean, scale), Flow("float32", flow.shape)


def _quantise(flow: Flow, model: TensorSpec, _: Table) -> tuple[Transform, Flow]:
    if model.scale == 0.0:
        raise ConfigError("quantise: the model's input is not quantised; leave the stage out")
    if flow.dtype != "float32":
        raise ConfigError(f"quantise: needs float32, and {flow.dtype} arrives; put normalise before it")

    def run(batch: NDArray[np.generic]) -> NDArray[np.generic]:
        return vector.quantise(batch.astype(np.float32), model.scale, model.zero_point, model.dtype)

    return run, Flow(model.dtype, flow.shape)


TENSOR_STAGES: dict[str, Callable[[Flow, TensorSpec, Table], tuple[Transform, Flow]]] = {
    "normalise": _normalise,
    "quantise": _quantise,
}

# ---- stages after the model: named tensors to named tensors -------------------------------------------------------

Flows = dict[str, Flow]


@dataclass(frozen=True, slots=True)
class PostContext:
    """What post stages may look at."""

    outputs: tuple[TensorSpec, ...]
    package: Package


def _only(flows: Flows, stage: str) -> str:
    if len(flows) != 1:
        raise ConfigError(f"{stage}: needs exactly one tensor, and {', '.join(flows)} arrive")
    return next(iter(flows))


def _dequantise(flows: Flows, context: PostContext, _: Table) -> tuple[PostTransform, Flows]:
    specs = {spec.name: spec for spec in context.outputs if spec.scale}
    real = [name for name, flow in flows.items() if name not in specs or flow.dtype != specs[name].dtype]
    if real:
        raise ConfigError(f"dequantise: not quantised: {', '.join(real)}; leave the stage out")

    def run(tensors: Tensors) -> Tensors:
        return {
            name: vector.dequantise(value, specs[name].scale, specs[name].zero_point) for name, value in tensors.items()
        }

    return run, {name: Flow("float32", flow.shape) for name, flow in flows.items()}


def _softmax(flows: Flows, _: PostContext, __: Table) -> tuple[PostTransform, Flows]:
    name = _only(flows, "softmax")
    if flows[name].dtype != "float32":
        raise ConfigError(f"softmax: needs float32, and {flows[name].dtype} arrives; put dequantise before it")
    return lambda tensors: {name: vector.softmax(tensors[name].astype(np.float32, copy=False))}, flows


def _top_k(flows: Flows, _: PostContext, table: Table) -> tuple[PostTransform, Flows]:
    name = _only(flows, "top_k")
    flow = flows[name]
    if len(flow.shape) != 1 or flow.shape[0] > 65536:
        raise ConfigError(f"top_k: needs one score for each class, at most 65536, and {flow.shape} arrives")
    k = table.number("k", 1, flow.shape[0])

    def run(tensors: Tensors) -> Tensors:
        classes, scores = vector.top_k(tensors[name], k)
        return {"class": classes, "score": scores}

    return run, {"class": Flow("uint16", (k,)), "score": Flow(flow.dtype, (k,))}


def _labels(flows: Flows, context: PostContext, table: Table) -> tuple[PostTransform, Flows]:
    if "class" not in flows:
        raise ConfigError("labels: needs classes; put top_k before it")
    name = table.text("file")
    try:
        labels = [line.strip().encode() for line in context.package.file(name).decode().splitlines()]
    except UnicodeDecodeError:
        raise ConfigError(f"labels: {name} is no UTF-8 text") from None
    classes = context.outputs[0].shape[-1]
    if len(labels) != classes or not all(0 < len(label) <= LABEL_BYTES for label in labels):
        raise ConfigError(f"labels: {name} needs {classes} lines of 1 to {LABEL_BYTES} bytes, one for each class")
    lookup = np.array(labels)  # S<longest>, padded with zeros

    def run(tensors: Tensors) -> Tensors:
        return {**tensors, "label": lookup[tensors["class"]]}

    return run, {**flows, "label": Flow(lookup.dtype.str.lstrip("|"), flows["class"].shape)}


POST_STAGES: dict[str, Callable[[Flows, PostContext, Table], tuple[PostTransform, Flows]]] = {
    "dequantise": _dequantise,
    "labels": _labels,
    "softmax": _softmax,
    "top_k": _top_k,
}


def builder(entry: StageEntry, known: dict[str, Builder]) -> Builder:
    """Return what builds a stage.

    Raises:
        ConfigError: No stage of this kind can stand here; the message lists those that can.
    """
    if entry.kind not in known:
        raise ConfigError(f"no stage {entry.kind!r} can stand here; there are: {', '.join(sorted(known))}")
    return known[entry.kind]
