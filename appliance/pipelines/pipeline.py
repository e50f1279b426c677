"""A compiled pipeline: bodies in, answers out, a batch at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.clock import Clock
from appliance.dla.base import Accelerator
from appliance.engines.media import MediaEngine
from appliance.engines.vector import lookup
from appliance.pipelines.manifest import Manifest
from appliance.pipelines.stages import Flow, Flows, PostTransform, Transform
from appliance.profile import Profile
from host_sdk.wire.errors import DeviceError, NapuError
from host_sdk.wire.schema import Status

Standing = Callable[[], NDArray[np.uint16] | None]
DIGEST_PREFIX = 8  # bytes of the model's SHA-256 that the trailer carries


class LateError(NapuError):
    """The deadline of a batch passed before one of its stages."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch of n requests.

    Attributes:
        answers: uint8 [n, answer size], outputs in order, each little-endian and C-contiguous.
        statuses: uint16 [n], Status values.
        details: The sentence for each request that failed, by its index.
        measured_ns: ns that the batch took in pre, dla and post.
        modelled_ns: int64 [n, 3], ns that the profile's hardware would take in pre, dla and post; the DLA's time is
            that of the whole batch.
        ran: Requests that the DLA ran.
        late: How many had passed their deadline before the DLA, and before what follows it.
    """

    answers: NDArray[np.uint8]
    statuses: NDArray[np.uint16]
    details: dict[int, str]
    measured_ns: tuple[int, int, int]
    modelled_ns: NDArray[np.int64]
    ran: int
    late: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Work:
    """What the parts of a profile's hardware need, in ns.

    Attributes:
        pixel_ns: One decoded pixel in the image engine.
        element_ns: One element in the vector engine.
        launch_ns: One DLA invocation, whatever its batch.
        inference_ns: One inference within an invocation.
    """

    pixel_ns: float
    element_ns: float
    launch_ns: float
    inference_ns: float

    @classmethod
    def of(cls, profile: Profile, macs: int) -> "Work":
        """Return the work of a model of ``macs`` multiply-accumulates on a profile's hardware."""
        return cls(
            pixel_ns=1e3 / profile.value("image_engine", "megapixels_per_s"),
            element_ns=1.0 / profile.value("vector_engine", "gigaelements_per_s"),
            launch_ns=1e3 * profile.value("dla", "launch_us"),
            inference_ns=macs / profile.value("dla", "gigamacs_per_s"),
        )


@dataclass(frozen=True)
class Pipeline:
    """A compiled pipeline. Used from the dataplane's thread alone.

    Attributes:
        handle: What requests name it by.
        manifest: What it was compiled from.
        digest: SHA-256 of its package, hex.
        macs: Multiply-accumulates of one inference.
        engine: Decodes media; None where the body is a tensor.
        input: The tensor that the stages before the model begin with.
        table: uint8 to the model's input, [channels or 1, 256], all elementwise stages folded; None with ``before``.
        before: Elementwise stages that cannot be folded.
        after: Stages after the model.
        outputs: What an answer holds, in order.
        work: Modelled cost.
    """

    handle: int
    manifest: Manifest
    digest: str
    macs: int
    accelerator: Accelerator
    engine: MediaEngine | None
    input: Flow
    table: NDArray[np.generic] | None
    before: tuple[Transform, ...]
    after: tuple[PostTransform, ...]
    outputs: Flows
    work: Work

    @cached_property
    def model_digest(self) -> int:
        """First 8 bytes of the model's SHA-256 as a number."""
        return int(self.manifest.model_sha256[: 2 * DIGEST_PREFIX], 16)

    @cached_property
    def max_batch(self) -> int:
        """Most requests that share an invocation: what the manifest wants, as far as the model takes it."""
        return min(self.manifest.max_batch, self.accelerator.max_batch)

    @cached_property
    def input_size(self) -> int | None:
        """Bytes of every body; None where they vary."""
        return None if self.engine else self.input.size

    @cached_property
    def wire_dtype(self) -> np.dtype[Any]:
        """Element type of a tensor in a body: little-endian."""
        return np.dtype(self.input.dtype).newbyteorder("<")

    @cached_property
    def max_body(self) -> int:
        """Bytes of the longest body taken."""
        size = self.input_size
        return self.manifest.max_bytes if size is None else size

    @cached_property
    def answer_size(self) -> int:
        """Bytes of every answer."""
        return sum(flow.size for flow in self.outputs.values())

    @cached_property
    def _elements(self) -> float:
        """Elements of the model's input."""
        return float(np.prod(self.input.shape, dtype=np.int64))

    @cached_property
    def _scores(self) -> int:
        """Elements of the model's outputs."""
        return sum(int(np.prod(spec.shape, dtype=np.int64)) for spec in self.accelerator.outputs)

    def run(self, bodies: list[bytes] | NDArray[np.uint8], clock: Clock, standing: Standing | None = None) -> Outcome:
        """Run a batch, stage by stage.

        Args:
            bodies: Media, one body for each request; or uint8 [n, input_size] for tensors.
            clock: Measures the stages.
            standing: Asked before each stage for the status of every request, uint16 [n]: those that are not OK are
                taken no further. None stands for all OK.
        """
        count, began = len(bodies), clock.now_ns()
        statuses = np.zeros(count, np.uint16)
        early = _stop(statuses, standing)
        batch, pre_work, details = self._prepare(bodies, statuses)
        if details:
            statuses[list(details)] = Status.UNDECODABLE
        prepared = clock.now_ns()
        before = early + _stop(statuses, standing)
        kept = np.flatnonzero(statuses == Status.OK)
        raw, broken = self._invoke(batch if len(kept) == count else batch[kept])
        invoked = clock.now_ns()
        for index, sentence in broken.items():
            details[int(kept[index])] = sentence
            statuses[kept[index]] = Status.INTERNAL
        ran = np.flatnonzero(statuses == Status.OK)
        after = _stop(statuses, standing)
        if len(ran) == count:
            answers = self._finish(raw)
        else:
            answers = np.zeros((count, self.answer_size), np.uint8)
            if len(ran):
                answers[ran] = self._finish(raw)
        modelled = self._model(pre_work, len(ran), np.flatnonzero(statuses))
        measured = (prepared - began, invoked - prepared, clock.now_ns() - invoked)
        return Outcome(answers, statuses, details, measured, modelled, len(ran), (before, after))

    def _prepare(
        self, bodies: list[bytes] | NDArray[np.uint8], statuses: NDArray[np.uint16]
    ) -> tuple[NDArray[np.generic], NDArray[np.float64], dict[int, str]]:
        """Return the model's input for each request, the modelled ns that it took, and who failed.

        Media of requests that are not to go on is not decoded.
        """
        elements = self._elements
        work = np.full(len(bodies), elements * self.work.element_ns)
        details: dict[int, str] = {}
        if self.engine:
            wanted = [body if ok else b"" for body, ok in zip(bodies, (statuses == Status.OK).tolist(), strict=True)]
            pixels, decoded, details = self.engine.decode_batch(wanted)
            details = {index: text for index, text in details.items() if statuses[index] == Status.OK}
            work += decoded * self.work.pixel_ns
            batch: NDArray[np.generic] = pixels
        else:
            raw = np.ascontiguousarray(bodies)
            batch = raw.view(self.wire_dtype).reshape(len(raw), *self.input.shape)
        return self._before_model(batch), work, details

    def _before_model(self, batch: NDArray[np.generic]) -> NDArray[np.generic]:
        """Run the stages between pixels or the body's tensor, and the model."""
        if self.table is not None:
            return lookup(batch.view(np.uint8), self.table)
        for transform in self.before:
            batch = transform(batch)
        return batch

    def run_tensors(
        self, bodies: NDArray[np.void], clock: Clock, expires: int | None = None
    ) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
        """Run a batch of tensors in which nothing is out of the ordinary.

        Args:
            bodies: void of the input's size [n], contiguous.
            clock: Measures the stages.
            expires: When no further stage shall begin, in ns on the clock.

        Returns:
            Answers, uint8 [n, answer size], and the ns that the batch took in pre, dla and post.

        Raises:
            DeviceError: The model failed on one of the inputs; none is answered.
            LateError: The deadline passed before a stage.
        """
        began = clock.now_ns()
        if expires is not None and began >= expires:
            raise LateError("before the first stage")
        batch = self._before_model(bodies.view(self.wire_dtype).reshape(len(bodies), *self.input.shape))
        prepared = clock.now_ns()
        if expires is not None and prepared >= expires:
            raise LateError("before the DLA")
        raw = self.accelerator.invoke(batch)
        invoked = clock.now_ns()
        answers = self._finish(raw)
        return answers, (prepared - began, invoked - prepared, clock.now_ns() - invoked)

    def modelled_tensors(self, count: int) -> tuple[int, int, int]:
        """Return the modelled ns of pre, of the DLA for a batch of ``count``, and of post."""
        elements = self._elements
        nobody = np.empty(0, np.intp)
        modelled = self._model(np.full(1, elements * self.work.element_ns), count, nobody)
        return int(modelled[0, 0]), int(modelled[0, 1]), int(modelled[0, 2])

    def _invoke(self, batch: NDArray[np.generic]) -> tuple[list[NDArray[np.generic]], dict[int, str]]:
        """Return the model's outputs for what it took, and the sentence for each input that it failed on, by index.

        A batch that fails is run again one by one: an input costs no other request its answer.
        """
        if len(batch) == 0:
            return [], {}
        try:
            return self.accelerator.invoke(batch), {}
        except DeviceError as error:
            if len(batch) == 1:
                return [], {0: str(error)}
        parts, broken = [], {}
        for index in range(len(batch)):
            try:
                parts.append(self.accelerator.invoke(batch[index : index + 1]))
            except DeviceError as error:
                broken[index] = str(error)
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)], broken

    def _finish(self, raw: list[NDArray[np.generic]]) -> NDArray[np.uint8]:
        if not self.after and len(raw) == 1:  # the model's only output is the answer
            return np.ascontiguousarray(raw[0]).reshape(len(raw[0]), -1).view(np.uint8)
        tensors = {spec.name: value for spec, value in zip(self.accelerator.outputs, raw, strict=True)}
        for transform in self.after:
            tensors = transform(tensors)
        parts = [np.ascontiguousarray(value).reshape(len(value), -1).view(np.uint8) for value in tensors.values()]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _model(self, pre_work: NDArray[np.float64], ran: int, failed: NDArray[np.intp]) -> NDArray[np.int64]:
        modelled = np.empty((len(pre_work), 3), np.int64)
        modelled[:, 0] = pre_work
        modelled[:, 1] = self.work.launch_ns + ran * self.work.inference_ns
        modelled[:, 2] = self._scores * self.work.element_ns * max(1, len(self.after))
        modelled[failed, 1:] = 0
        return modelled

    def description(self) -> dict[str, Any]:
        """Return what a client needs to use the pipeline, of types that msgpack carries."""
        source: dict[str, Any] = {"kind": self.manifest.input_kind, "max_bytes": self.max_body}
        if self.engine:
            source |= {"formats": list(self.manifest.formats), "max_pixels": self.manifest.max_pixels}
        else:
            source |= {"dtype": self.input.dtype, "shape": list(self.input.shape)}
        return {
            "name": self.manifest.name,
            "description": self.manifest.description,
            "handle": self.handle,
            "digest": self.digest,
            "model_sha256": self.manifest.model_sha256,
            "backend": self.accelerator.backend,
            "macs": self.macs,
            "max_batch": self.max_batch,
            "input": source,
            "outputs": [
                {"name": name, "dtype": flow.dtype, "shape": list(flow.shape)} for name, flow in self.outputs.items()
            ],
        }


def _stop(statuses: NDArray[np.uint16], standing: Standing | None) -> int:
    """Take the standing of requests before a stage into their statuses; return how many are too late."""
    asked = standing() if standing else None
    if asked is None:
        return 0
    before = np.count_nonzero(statuses == Status.DEADLINE_EXCEEDED)
    np.copyto(statuses, asked, where=(statuses == Status.OK) & (asked != Status.OK))
    return int(np.count_nonzero(statuses == Status.DEADLINE_EXCEEDED) - before)
