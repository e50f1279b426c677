"""What the SDK hands to its users: value objects, cut from what appliances sent, which is never taken on trust."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import RemoteProtocolError
from host_sdk.wire.exchange.answers import Answers
from host_sdk.wire.links.base import SEALED_PEER
from host_sdk.wire.message import Trailer
from host_sdk.wire.schema import STAGES

_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")
_MAX_ELEMENTS = 1 << 24


class _Map:
    """A map from the wire whose values are checked as they are taken."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, Mapping):
            raise RemoteProtocolError(f"{where} is no map")
        self._data, self._where = data, where

    def text(self, key: str) -> str:
        value = self._data.get(key)
        if not isinstance(value, str) or len(value) > 4096:
            raise RemoteProtocolError(f"{self._where}: {key} is no text")
        return value

    def number(self, key: str, high: int = 1 << 63) -> int:
        value = self._data.get(key)
        if type(value) is not int or not 0 <= value < high:
            raise RemoteProtocolError(f"{self._where}: {key} is no number in range")
        return value

    def flag(self, key: str) -> bool:
        value = self._data.get(key, False)
        if not isinstance(value, bool):
            raise RemoteProtocolError(f"{self._where}: {key} is neither true nor false")
        return value

    def map(self, key: str) -> "_Map":
        return _Map(self._data.get(key), f"{self._where}: {key}")

    def list(self, key: str) -> list[Any]:
        value = self._data.get(key)
        if not isinstance(value, list) or len(value) > 4096:
            raise RemoteProtocolError(f"{self._where}: {key} is no list")
        return value

    def shape(self, key: str) -> tuple[int, ...]:
        value = self.list(key)
        if len(value) > 8 or not all(type(size) is int and 0 < size <= _MAX_ELEMENTS for size in value):
            raise RemoteProtocolError(f"{self._where}: {key} is no shape")
        return tuple(value)


def unpack_map(body: bytes) -> dict[str, Any]:
    """Return the msgpack map that a control reply holds.

    Raises:
        RemoteProtocolError: It holds none.
    """
    try:
        content = msgpack.unpackb(body, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise RemoteProtocolError(f"reply is no msgpack: {error}") from None
    if not isinstance(content, dict):
        raise RemoteProtocolError("reply is no map")
    return content


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, element type and shape of a tensor of one inference; little-endian and C-contiguous on the wire.

    Attributes:
        dtype: numpy's name of the element type; ``S<n>`` is UTF-8 text of at most n bytes, padded with zeros.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The element type as it is on the wire."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.numpy_dtype.itemsize

    @classmethod
    def parse(cls, data: Any) -> "Tensor":
        """Read a tensor's description from the wire.

        Raises:
            RemoteProtocolError: It is none.
        """
        entry = _Map(data, "tensor")
        dtype = entry.text("dtype")
        text = dtype[:1] == "S" and dtype[1:].isdigit() and 0 < int(dtype[1:]) <= 1024
        if not text and dtype not in _DTYPES:
            raise RemoteProtocolError(f"tensor: dtype {dtype[:32]!r} is not known")
        return cls(entry.text("name"), dtype, entry.shape("shape"))


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline that an appliance serves.

    Attributes:
        handle: What frames name it by, on this appliance and until it is replaced.
        digest: SHA-256 of its package, hex.
        backend: What executes the model.
        input: The tensor that it takes; None where it takes encoded media.
        formats: The media that it takes.
        max_bytes: Longest body that it takes.
        outputs: What an answer holds, in order.
        sealed: Whether it takes sealed requests alone.
    """

    name: str
    description: str
    handle: int
    digest: str
    model_sha256: str
    backend: str
    macs: int
    max_batch: int
    input: Tensor | None
    formats: tuple[str, ...]
    max_bytes: int
    outputs: tuple[Tensor, ...]
    sealed: bool = False

    @classmethod
    def parse(cls, data: Any) -> "Pipeline":
        """Read a pipeline's description from the wire.

        Raises:
            RemoteProtocolError: It is none.
        """
        entry = _Map(data, "pipeline")
        source = entry.map("input")
        media = source.text("kind") == "image"
        return cls(
            name=entry.text("name"),
            description=entry.text("description"),
            handle=entry.number("handle", 1 << 16),
            digest=entry.text("digest"),
            model_sha256=entry.text("model_sha256"),
            backend=entry.text("backend"),
            macs=entry.number("macs"),
            max_batch=entry.number("max_batch"),
            input=None if media else Tensor("input", source.text("dtype"), source.shape("shape")),
            formats=tuple(str(name) for name in source.list("formats")) if media else (),
            max_bytes=source.number("max_bytes"),
            outputs=tuple(Tensor.parse(output) for output in entry.list("outputs")),
            sealed=entry.flag("sealed"),
        )


@dataclass(frozen=True, slots=True)
class Appliance:
    """What an appliance says of itself.

    Attributes:
        key: Peer key on the link that found it.
        address: The same as people write it.
        credits: Requests that a session may have outstanding.
        firmware: version, digest, epoch and pid.
        pipelines: Name to handle.
        access: ``mutual``, or ``open`` where anybody may control it.
        sealed: The pipelines that take sealed requests alone.
    """

    key: int
    address: str
    name: str
    device: str
    profile: str
    link: str
    mtu: int
    credits: int
    firmware: dict[str, Any]
    pipelines: dict[str, int]
    access: str
    sealed: tuple[str, ...] = ()

    @classmethod
    def parse(cls, key: int, address: str, data: Any) -> "Appliance":
        """Read an announcement that came from ``key``.

        Raises:
            RemoteProtocolError: It is none.
        """
        entry = _Map(data, "announcement")
        firmware = entry.map("firmware")
        listed = [_Map(pipeline, "pipeline") for pipeline in entry.list("pipelines")]
        return cls(
            key=key,
            address=address,
            name=entry.text("name"),
            device=entry.text("device"),
            profile=entry.text("profile"),
            link=entry.text("link"),
            mtu=entry.number("mtu"),
            credits=entry.number("credits"),
            firmware={
                "version": firmware.text("version"),
                "digest": firmware.text("digest"),
                "epoch": firmware.number("epoch"),
                "pid": firmware.number("pid"),
            },
            pipelines={pipeline.text("name"): pipeline.number("handle", 1 << 16) for pipeline in listed},
            access=entry.text("access") if "access" in data else "open",  # as it was before there was a choice
            sealed=tuple(pipeline.text("name") for pipeline in listed if pipeline.flag("sealed")),
        )


class Layout:
    """Where a pipeline's outputs are in its answers.

    Args:
        outputs: The tensors, in order.

    Attributes:
        size: Bytes of an answer.
    """

    def __init__(self, outputs: tuple[Tensor, ...]) -> None:
        self._places: list[tuple[str, np.dtype[Any], tuple[int, ...], slice]] = []
        self.size = 0
        for tensor in outputs:
            place = slice(self.size, self.size + tensor.size)
            self._places.append((tensor.name, tensor.numpy_dtype, tensor.shape, place))
            self.size += tensor.size

    def unpack(self, body: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return views of the tensors in an answer, uint8 [size], by name."""
        return {name: body[place].view(dtype).reshape(shape) for name, dtype, shape, place in self._places}


class Inference:
    """An answer: one of a batch that came in together, looked at only as far as it is asked for.

    Args:
        layout: Where its tensors are.
        appliance: Address of the appliance that answered.
        answers: The batch.
        row: Its row there.
    """

    __slots__ = ("_answers", "_layout", "_outputs", "_row", "appliance")

    def __init__(self, layout: Layout, appliance: str, answers: Answers, row: int) -> None:
        self._layout, self._answers, self._row, self.appliance = layout, answers, row, appliance
        self._outputs: dict[str, NDArray[Any]] | None = None

    def __repr__(self) -> str:
        return f"Inference({self.outputs!r}, appliance={self.appliance!r}, latency_us={self.latency_us})"

    @property
    def outputs(self) -> dict[str, NDArray[Any]]:
        """Output name to array."""
        if self._outputs is None:
            self._outputs = self._layout.unpack(self._answers.bodies[self._row])
        return self._outputs

    @property
    def latency_us(self) -> float:
        """µs from the first transmission of the request to the whole answer."""
        return int(self._answers.latency_ns[self._row]) / 1000

    @property
    def sealed(self) -> bool:
        """Whether request and answer were sealed."""
        return self._answers.peer >= SEALED_PEER

    @property
    def transmissions(self) -> int:
        """Times that the request was sent, at least in part."""
        return int(self._answers.transmissions[self._row])

    @property
    def trailer(self) -> Trailer | None:
        """What the appliance says of how the answer was made; None where none was asked for."""
        trailers = self._answers.trailers
        return None if trailers is None else Trailer.decode(trailers[self._row].tobytes())

    @property
    def made_by(self) -> tuple[int, bytes] | None:
        """Firmware epoch and first 8 bytes of the model's SHA-256; None where no trailer was asked for.

        :func:`host_sdk.wire.attest.evidence.explain` says from a quote which firmware and which model that is.
        """
        trailer = self.trailer
        return (trailer.firmware_epoch, trailer.model_digest.to_bytes(8, "big")) if trailer else None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, likeliest first; empty where the pipeline has none."""
        return tuple(label.decode("utf-8", "replace") for label in self.outputs.get("label", np.empty(0)).tolist())

    @property
    def label(self) -> str | None:
        """The likeliest label; None where the pipeline has none."""
        return next(iter(self.labels), None)

    @property
    def stages_us(self) -> dict[str, float]:
        """Stage to measured µs; empty without trailer."""
        trailer = self.trailer
        if trailer is None:
            return {}
        return {stage: ns / 1000 for stage, ns in zip(STAGES, trailer.measured_ns, strict=True)}
