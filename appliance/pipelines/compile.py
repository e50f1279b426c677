"""From a package to a pipeline: every stage is checked against its neighbours and the model's real tensors."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.dla.base import Accelerator, Loader, TensorSpec
from appliance.engines.media import FORMATS, MODES, MediaEngine
from appliance.pipelines.manifest import Manifest, StageEntry, Table
from appliance.pipelines.package import Package, unpack
from appliance.pipelines.pipeline import Pipeline, Work
from appliance.pipelines.stages import (
    IMAGE_STAGES,
    MAX_CHANNELS,
    POST_STAGES,
    TENSOR_STAGES,
    Flow,
    Flows,
    ImagePlan,
    PostContext,
    PostTransform,
    Transform,
    builder,
)
from appliance.profile import Profile
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.schema import CRC_SIZE, MAX_MESSAGE, TRAILER

_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
ANSWER_DTYPES = (*_INTEGERS, "float16", "float32", "float64")
MAX_OUTPUTS = 64
MAX_OUTPUT_NAME = 200  # characters
MAX_OUTPUT_RANK = 8
MAX_ANSWER = MAX_MESSAGE - TRAILER.size - CRC_SIZE  # bytes


Counter = Callable[[bytes, int], int]


@dataclass(frozen=True, slots=True)
class _Front:
    """Everything before the model."""

    engine: MediaEngine | None
    input: Flow
    table: NDArray[np.generic] | None
    before: tuple[Transform, ...]


def compile_pipeline(
    data: bytes, handle: int, loader: Loader, profile: Profile, count: Counter | None = None
) -> Pipeline:
    """Compile the pipeline in a package's bytes.

    Args:
        data: The package.
        handle: What requests will name the pipeline by.
        loader: Loads the model into a DLA.
        profile: Hardware that its times and energy are modelled on.
        count: Returns the multiply-accumulates of one inference of a model for the largest batch that is wanted, and
            refuses one that cannot be loaded; by default what :func:`appliance.dla.cost.count_macs` counts.

    Raises:
        ConfigError: The package, its manifest or its model is wrong, or they do not fit together; the message says
            which stage and why.
    """
    package = unpack(data)
    manifest = package.manifest
    model = package.file(manifest.model_file)
    digest = hashlib.sha256(model).hexdigest()
    if digest != manifest.model_sha256:
        raise ConfigError(f"{manifest.model_file} has SHA-256 {digest}, the manifest says {manifest.model_sha256}")
    macs = (count or _count)(model, manifest.max_batch)
    accelerator = loader(model, manifest.max_batch)
    front = _compile_front(manifest, accelerator.input)
    after, outputs = _compile_post(manifest.post, accelerator, package)
    return Pipeline(
        handle=handle,
        manifest=manifest,
        digest=hashlib.sha256(data).hexdigest(),
        macs=macs,
        accelerator=accelerator,
        engine=front.engine,
        input=front.input,
        table=front.table,
        before=front.before,
        after=after,
        outputs=outputs,
        work=Work.of(profile, macs),
    )


def _count(model: bytes, _: int) -> int:
    from appliance.dla.cost import count_macs  # here alone: it brings the schema's two hundred modules

    return count_macs(model)


def _compile_front(manifest: Manifest, model: TensorSpec) -> _Front:
    engine, stages = None, manifest.pre
    if manifest.input_kind == "image":
        engine, stages = _compile_image(manifest)
        flow = Flow("uint8", engine.shape)
    else:
        flow = Flow(_dtype(manifest.input_dtype or model.dtype), model.shape)
    start, transforms = flow, []
    for number, entry in enumerate(stages, len(manifest.pre) - len(stages) + 1):
        table = Table(entry.parameters, f"pre stage {number} ({entry.kind})")
        transform, flow = builder(entry, TENSOR_STAGES)(flow, model, table)
        table.finish()
        transforms.append(transform)
    if (flow.dtype, flow.shape) != (model.dtype, model.shape):
        raise ConfigError(
            f"the stages before the model end in {flow.dtype} {list(flow.shape)}, "
            f"and the model takes {model.dtype} {list(model.shape)}"
        )
    if start.dtype == "uint8" and transforms:
        channels = start.shape[-1] if start.shape and start.shape[-1] <= MAX_CHANNELS else 1
        return _Front(engine, start, _fold(tuple(transforms), channels), ())
    return _Front(engine, start, None, tuple(transforms))


def _dtype(name: str) -> str:
    known = ("int8", "uint8", "int16", "int32", "float32")
    if name not in known:
        raise ConfigError(f"[input]: dtype {name!r}; there are: {', '.join(known)}")
    return name


def _fold(transforms: tuple[Transform, ...], channels: int) -> NDArray[np.generic]:
    """Run elementwise stages once on all 256 values of every channel: [channels or 1, 256]."""
    values: NDArray[np.generic] = np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels, axis=1)
    for transform in transforms:
        values = transform(values)
    table = np.ascontiguousarray(values.T)
    return table[:1] if (table == table[0]).all() else table


def _compile_image(manifest: Manifest) -> tuple[MediaEngine, tuple[StageEntry, ...]]:
    """Return the engine and the stages that come after its own."""
    if not manifest.pre or manifest.pre[0].kind != "decode":
        raise ConfigError("an image pipeline's first pre stage must be decode")
    plan, at = ImagePlan(), 1
    while at < len(manifest.pre) and manifest.pre[at].kind in IMAGE_STAGES:
        entry = manifest.pre[at]
        table = Table(entry.parameters, f"pre stage {at + 1} ({entry.kind})")
        plan = IMAGE_STAGES[entry.kind](plan, table)
        table.finish()
        at += 1
    if plan.mode is None or plan.size is None:
        raise ConfigError("an image pipeline needs the stages colour and resize, so that its pixels are known")
    shape = (*plan.size, MODES[plan.mode])
    formats = tuple(FORMATS[name] for name in manifest.formats)
    from appliance.engines.image import ImageEngine  # the first that needs it brings Pillow

    return ImageEngine(formats, manifest.max_pixels, plan.steps, shape), manifest.pre[at:]


def _compile_post(
    stages: tuple[StageEntry, ...], accelerator: Accelerator, package: Package
) -> tuple[tuple[PostTransform, ...], Flows]:
    context = PostContext(accelerator.outputs, package)
    flows: Flows = {spec.name: Flow(spec.dtype, spec.shape) for spec in accelerator.outputs}
    if len(flows) != len(accelerator.outputs):
        raise ConfigError("two outputs of the model have the same name")
    transforms = []
    for number, entry in enumerate(stages, 1):
        table = Table(entry.parameters, f"post stage {number} ({entry.kind})")
        transform, flows = builder(entry, POST_STAGES)(flows, context, table)
        table.finish()
        transforms.append(transform)
    _check_answer(flows)
    return tuple(transforms), flows


def _check_answer(flows: Flows) -> None:
    """Refuse what no client could read."""
    for name, flow in flows.items():
        if not (flow.dtype in ANSWER_DTYPES or flow.dtype.startswith("S")):
            raise ConfigError(f"output {name[:80]!r} is {flow.dtype}; answers carry {', '.join(ANSWER_DTYPES)}")
        if not (0 < len(name) <= MAX_OUTPUT_NAME and len(flow.shape) <= MAX_OUTPUT_RANK):
            raise ConfigError(f"output {name[:80]!r} {list(flow.shape)}: its name or its shape is too long")
    size = sum(flow.size for flow in flows.values())
    if len(flows) > MAX_OUTPUTS or size > MAX_ANSWER:
        raise ConfigError(
            f"{len(flows)} outputs with {size} bytes; an answer carries at most {MAX_OUTPUTS} with {MAX_ANSWER}"
        )
