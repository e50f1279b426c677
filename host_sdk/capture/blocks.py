"""Enhanced Packet Blocks of a whole batch of frames, made with a fixed number of array operations."""

import struct

import numpy as np
from numpy.typing import NDArray

from host_sdk.capture.frames import CapturedFrames
from host_sdk.capture.pcapng import PACKET, PACKET_FLAGS, PACKET_ID
from host_sdk.wire.links.base import records

_HEAD = np.dtype([(name, "<u4") for name in ("kind", "total", "interface", "high", "low", "captured", "length")])
_FLAGS = np.dtype([("flags_code", "<u2"), ("flags_size", "<u2"), ("flags", "<u4")])
_ID = np.dtype([("id_code", "<u2"), ("id_size", "<u2"), ("id", "<u8")])
_END = np.dtype([("end", "<u4"), ("total", "<u4")])


def packet_blocks(
    interface: int,
    frames: CapturedFrames,
    ids: NDArray[np.uint64] | None = None,
    more: bytes = b"",
    heads: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the blocks of frames, one behind the other, uint8 [bytes], and where each ends, int64 [n].

    Args:
        interface: That they were captured at.
        frames: The frames, at least one.
        ids: Packet id of each, uint64 [n].
        more: Options that all of them get besides, made by :func:`host_sdk.capture.pcapng.option`.
        heads: Bytes to put before what was captured of each, uint8 [n, h].
    """
    count, before = len(frames), 0 if heads is None else heads.shape[1]
    captured = frames.captured + before
    tail = _tail(frames.directions, ids, more)
    totals = _HEAD.itemsize + (captured + 3 & ~3) + tail.dtype.itemsize
    ends = np.cumsum(totals)
    begins = ends - totals
    tail["end"]["total"] = totals
    head = np.zeros(count, _HEAD)
    times = frames.times.astype(np.uint64)
    columns = (PACKET, totals, interface, times >> np.uint64(32), times & np.uint64(0xFFFF_FFFF), captured)
    for name, column in zip(_HEAD.names or (), (*columns, frames.lengths + before), strict=True):
        head[name] = column
    out = np.zeros(int(ends[-1]), np.uint8)
    _put(out, begins, head)
    if heads is not None:
        _put(out, begins + _HEAD.itemsize, np.ascontiguousarray(heads))
    data = begins + _HEAD.itemsize + before
    for size in np.unique(frames.captured).tolist():
        chosen = np.flatnonzero(frames.captured == size)
        if size:
            records(out, size)[data[chosen]] = records(frames.memory, size)[frames.starts[chosen]]
    _put(out, ends - tail.dtype.itemsize, tail)
    return out, ends


def _tail(directions: NDArray[np.uint8], ids: NDArray[np.uint64] | None, more: bytes) -> NDArray[np.void]:
    """Return what follows the data of each: options and the length once more, but for its value."""
    fields: list[tuple[str, object]] = [("flags", _FLAGS)]
    if ids is not None:
        fields.append(("id", _ID))
    if more:
        fields.append(("more", np.dtype((np.void, len(more)))))
    tail = np.zeros(len(directions), np.dtype([*fields, ("end", _END)]))
    tail["flags"]["flags_code"], tail["flags"]["flags_size"], tail["flags"]["flags"] = PACKET_FLAGS, 4, directions
    if ids is not None:
        tail["id"]["id_code"], tail["id"]["id_size"], tail["id"]["id"] = PACKET_ID, 8, ids
    if more:
        tail["more"] = np.void(more)
    return tail


def _put(out: NDArray[np.uint8], starts: NDArray[np.int64], values: NDArray[np.generic]) -> None:
    """Write one record of equal size at each start."""
    size = values.nbytes // len(values)
    records(out, size)[starts] = values.reshape(len(values), -1).view(np.dtype((np.void, size)))[:, 0]


def lost_option(lost: int) -> bytes:
    """Return the option that so many packets were lost before this one."""
    return struct.pack("<HHQ", 4, 8, lost)
