"""What a replay knows while it goes on: which ids hold now, and what was answered."""

from collections.abc import Iterable, Mapping, Sequence

import msgpack
import numpy as np

from host_sdk.capture.fields import Fields, header_of
from host_sdk.capture.replay import Batch, Plan, Renaming
from host_sdk.wire.header import Header
from host_sdk.wire.links.base import Link
from host_sdk.wire.message import Message, encode_message, fragment_frames, fragment_size_for
from host_sdk.wire.schema import Flag, Opcode, Status

MTUS = (1500, 3400, 9000, 65535)


class Replayer:
    """Renames what goes out and what comes back, and keeps the latter.

    A session that the capture shows being opened is opened by the same OPEN, and has the number that this one gets; for
    any other one, an OPEN is made.

    Args:
        plan: What to replay.
        handles: Pipeline handle to handle.
        shift: What is added to request ids.

    Attributes:
        replies: Receiver and PDU of everything that came back, with the capture's ids.
    """

    def __init__(self, plan: Plan, handles: Mapping[int, int], shift: int = 0) -> None:
        self._plan = plan
        self._renaming = Renaming(handles, shift)
        self._opened: dict[tuple[str, int], int] = {}  # peer and id of the OPEN: session then
        for peer, pdu in plan.replies:
            header = header_of(pdu)
            if header and header.opcode == Opcode.OPENED and header.status == Status.OK and header.session:
                self._opened[peer, header.request] = header.session
        asked = {(peer, header.request) for peer, header in _requests(plan) if header.opcode == Opcode.OPEN}
        self._opened = {key: session for key, session in self._opened.items() if key in asked}
        self._made: dict[tuple[str, int], int] = {}  # likewise, of those that are made
        self.replies: list[tuple[str, bytes]] = []

    def openings(self, mtu: int) -> list[tuple[str, bytes]]:
        """Return an OPEN for every session that the capture has no opening of, and its peer."""
        first: dict[tuple[str, int], int] = {}
        shown = {(peer, session) for (peer, _), session in self._opened.items()}
        for peer, header in _requests(self._plan):
            key = (peer, header.session)
            if header.session and header.opcode == Opcode.INFER and key not in shown:
                first[key] = min(first.get(key, header.request), header.request)
        made = []
        for (peer, session), request in first.items():
            number = max(1, self._renaming.request(request) - 1) & ((1 << 62) - 1)  # so that its first id is the next
            while (peer, number) in self._made:
                number += 1
            self._made[peer, number] = session
            size = fragment_size_for(mtu)
            message = Message(Header(Opcode.OPEN, number, Flag.CRC), msgpack.packb({"fragment_size": size}))
            made += [(peer, pdu) for pdu in fragment_frames(*encode_message(message, size))]
        return made

    def awaits(self, batch: Batch) -> bool:
        """Return whether a batch has frames of a session whose opening has not been answered yet."""
        expected = {(peer, session) for (peer, _), session in (*self._opened.items(), *self._made.items())}
        for peer, pdu in batch.frames:
            header = header_of(pdu)
            key = (peer, header.session) if header else None
            if key in expected and key not in self._renaming.sessions:
                return True
        return False

    def peer_of(self, pdu: bytes) -> str:
        """Return whom a frame that came now would have come to then; the first peer where that cannot be told."""
        header = header_of(pdu)
        if header is not None:
            if header.opcode == Opcode.OPENED:
                asked = self._made if any(number == header.request for _, number in self._made) else self._opened
                request = header.request if asked is self._made else self._before(header.request)
                return next((peer for peer, number in asked if number == request), self._plan.peers[0])
            for (peer, _), session in self._renaming.sessions.items():
                if session == header.session:
                    return peer
        return self._plan.peers[0]

    def there(self, batch: Batch) -> list[tuple[str, bytes]]:
        """Return the frames of a batch as they are sent now, and who sends them."""
        return [(peer, self._renaming.there(peer, pdu)) for peer, pdu in batch.frames]

    def take(self, peer: str, pdu: bytes) -> bytes | None:
        """Take what came back for a peer; return it with the capture's ids, None where the capture knows no such."""
        header = header_of(pdu)
        if header and header.opcode == Opcode.OPENED:
            made = self._made.get((peer, header.request))
            then = made or self._opened.get((peer, self._before(header.request)))
            if then and header.status == Status.OK:
                self._renaming.opened(peer, then, header.session)
            if made:
                return None
        renamed = self._renaming.back(peer, pdu)
        self.replies.append((peer, renamed))
        return renamed

    def _before(self, request: int) -> int:
        return (request - self._renaming.shift) & ((1 << 62) - 1)


def mtu_for(plan: Plan) -> int:
    """Return the bytes of the largest PDU that a link for a replay has to carry."""
    return next(mtu for mtu in MTUS if mtu >= min(plan.longest, MTUS[-1]))


def _requests(plan: Plan) -> Iterable[tuple[str, Fields]]:
    for batch in plan.batches:
        for peer, pdu in batch.frames:
            header = header_of(pdu)
            if header:
                yield peer, header


def match_handles(plan: Plan, served: Iterable[Mapping[str, object]]) -> tuple[dict[int, int], list[int]]:
    """Find the pipelines of a capture among those that an appliance serves.

    By the model that answers name, else the one pipeline that there is, else the same handle.

    Args:
        plan: The capture.
        served: ``handle`` and ``model_sha256`` (hex) of every pipeline.

    Returns:
        Handle then to handle now, and handles that nothing is found for, which stay as they are.
    """
    now = [(int(str(entry["handle"])), str(entry["model_sha256"])[:16]) for entry in served]
    found: dict[int, int] = {}
    lost = []
    for handle in plan.handles:
        digest = f"{plan.digests[handle]:016x}" if handle in plan.digests else ""
        alike = [new for new, model in now if model == digest]
        if handle in alike or (not digest and any(handle == new for new, _ in now)):
            found[handle] = handle
        elif len(alike) == 1 or (alike and len(plan.handles) == len(alike)):
            found[handle] = next((new for new in alike if new not in found.values()), alike[0])
        elif not digest and len(now) == 1:
            found[handle] = now[0][0]
        else:
            lost.append(handle)
    return found, lost


def send_pdus(link: Link, pdus: Sequence[bytes], peer: int) -> int:
    """Send PDUs to one peer, as many as the link has buffers for and carries; return how many it took.

    Raises:
        LinkError: The link is gone.
    """
    taken, fitting = 0, [pdu for pdu in pdus if len(pdu) <= link.mtu]
    while fitting:
        buffers = link.allocate(len(fitting))
        if not len(buffers):
            break
        for index, pdu in enumerate(fitting[: len(buffers)]):
            start = int(buffers.starts[index])
            buffers.memory[start : start + len(pdu)] = np.frombuffer(pdu, np.uint8)
            buffers.lengths[index] = len(pdu)
        buffers.peers[:] = peer
        taken += link.send(buffers)
        fitting = fitting[len(buffers) :]
    return taken
