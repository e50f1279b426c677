"""The requester's side of the protocol, for any number of appliances over one link. Sans-IO.

The owner submits, has :meth:`Requester.to_send` write into the link's buffers, feeds :meth:`Requester.receive` and
takes :meth:`Requester.events`; at the latest at :meth:`Requester.next_timer` it calls to_send again. Times are ns on
any monotonic clock; the generator gives ids that a stale reply cannot match.
"""

import random
from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from host_sdk.wire.errors import FrameError, LocalProtocolError, NapuError, status_error
from host_sdk.wire.exchange.alike import Alike, alike, all_same
from host_sdk.wire.exchange.answers import Event
from host_sdk.wire.exchange.course import Shared
from host_sdk.wire.exchange.flight import Bodies, write_pdu
from host_sdk.wire.exchange.fragments import Fragments, have_several, sound_runs
from host_sdk.wire.exchange.gathering import Gatherings
from host_sdk.wire.exchange.known import SMALL, KnownAppliance
from host_sdk.wire.exchange.opening import Opening, path_sizes
from host_sdk.wire.exchange.pace import RequesterLimits, Silence
from host_sdk.wire.exchange.probes import Probes
from host_sdk.wire.exchange.reassembly import Reassembler
from host_sdk.wire.exchange.request import Request
from host_sdk.wire.exchange.window import RequestWindow
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.links.base import SEALED_PEER, FrameBatch
from host_sdk.wire.message import (
    Message,
    check_flags,
    check_message,
    decode_message,
    encode_message,
    fragment_frames,
    fragment_size_for,
)
from host_sdk.wire.records import StridedView
from host_sdk.wire.schema import (
    CRC_SIZE,
    HEADER_SIZE,
    MAX_TENANT,
    MIN_MTU,
    Flag,
    Opcode,
    Status,
)

_MOST_KINDS = 1024
_NUMBER = slice(8, 16)  # of a header's bytes: the request id, in which alike frames differ
_Key = tuple[int, int, bytes, bytes]  # peer, bytes of the PDU, header without its request


class Requester:
    """Requests to any number of appliances over one link.

    Args:
        mtu: Bytes of the link's largest PDU.
        generator: Source of request ids.
        limits: Windows and timeouts.
        smallest: Bytes up to which the link pads its frames.
        tenant: On whose behalf requests are made.

    Attributes:
        bad_frames: Frames and messages that could not be read.
        stale_replies: Frames that nothing waited for.

    Raises:
        LocalProtocolError: The tenant's name is too long.
    """

    def __init__(
        self,
        mtu: int,
        generator: random.Random,
        limits: RequesterLimits | None = None,
        smallest: int = 0,
        tenant: str = "",
    ) -> None:
        if len(tenant.encode()) > MAX_TENANT:
            raise LocalProtocolError(f"a tenant's name of {len(tenant.encode())} bytes; at most {MAX_TENANT} are taken")
        self.limits = limits or RequesterLimits()
        self._mtu, self._smallest, self._tenant = mtu, smallest, tenant
        self._draw = generator.getrandbits
        self._bad = self._stale = 0
        self._appliances: dict[int, KnownAppliance] = {}
        self._tokens = 0
        self._reassembler = Reassembler()
        self._events: list[Event] = []
        self._shared = Shared(self._events, self._reassembler, self._draw)
        self._gatherings = Gatherings(self._events, self._draw, self.limits.first_rto_ns)
        self._out: deque[tuple[int, bytes]] = deque()
        self._probes = Probes(self._draw)
        self._headers = StridedView(HEADER_SIZE)
        self._kinds: dict[_Key, tuple[RequestWindow, Alike]] = {}

    # ---- what the owner asks -------------------------------------------------------------------------------------

    def submit(self, request: Request, now: int) -> int:
        """Queue a request outside sessions, and return the token of its events, which is below 2**32.

        Raises:
            LocalProtocolError: The message cannot be encoded, or is of another opcode.
        """
        check_message(Message(request.header, request.body), SMALL)
        self._tokens += 1
        if request.gathers:
            expires = now + request.timeout_ns
            self._gatherings.begin(self._tokens, request.peer, request.header, request.body, now, expires)
        elif request.header.opcode == Opcode.CONTROL:
            appliance = self._appliance(request.peer)
            tokens, expires = np.array([self._tokens]), now + request.timeout_ns
            appliance.control.submit(request.header, [request.body], tokens, now, expires)
            if appliance.path_mtu is None and len(request.body) + CRC_SIZE > SMALL:
                self._open(appliance)
        else:
            raise LocalProtocolError(f"opcode {request.header.opcode:#x} is no request outside sessions")
        return self._tokens

    def infer(
        self, peer: int, header: Header, bodies: Bodies, tokens: NDArray[np.int64], now: int, expires: int
    ) -> None:
        """Queue INFER requests to one appliance, alike but for their bodies; a session is opened where there is none.

        Args:
            peer: The appliance.
            header: Pipeline, priority, deadline and flags.
            bodies: uint8 [n, size], copied; or a list of bodies of any sizes.
            tokens: int64 [n], at least 2**32, what their answers are told by.
            now: Time in ns.
            expires: When those without answer fail, in ns.

        Raises:
            LocalProtocolError: A value does not fit, or a body is too long.
        """
        appliance = self._appliance(peer)
        appliance.window.submit(header, bodies, tokens, now, expires)
        if appliance.window.bounds is None:
            self._open(appliance)

    def cancel(self, token: int, now: int) -> None:
        """Give a request up, without an event; a late reply to it is counted as stale."""
        self._gatherings.cancel(token)
        for appliance in self._appliances.values():
            appliance.window.cancel(token, now)
            appliance.control.cancel(token, now)

    def resume(self, peer: int, session: int) -> None:
        """Go on with a session from before, when the next request to the appliance opens one."""
        self._appliance(peer).resume = session

    def sessions(self) -> list[tuple[int, int]]:
        """Return peer and number of every session that is open, and keep them open when the owner leaves.

        Sealed ones are not among them, as nobody else has their keys.
        """
        found = []
        for peer, appliance in self._appliances.items():
            if appliance.window.bounds and peer < SEALED_PEER:
                appliance.kept = True
                found.append((peer, appliance.window.bounds.session))
        return found

    def forget(self, peer: int, error: NapuError) -> None:
        """Fail all INFER requests to a peer, and forget its session, which is of no more use."""
        appliance = self._appliances.pop(peer, None)
        if appliance:
            appliance.window.lose(error)
            self._kinds.clear()

    def withdraw(self, peer: int, error: NapuError, now: int) -> None:
        """Fail all INFER requests to an appliance that seems to be gone; its session stays, should it come back."""
        appliance = self._appliances.get(peer)
        if appliance:
            appliance.window.withdraw(error, now)

    def probe(self, peer: int) -> None:
        """Ask an appliance for a sign of life; its dataplane alone answers."""
        self._out.append((peer, self._probes.ask(peer)))

    def probed_ns(self, peer: int) -> int:
        """Return when an appliance answered a probe last, in ns; 0 where it never did."""
        return self._probes.answered_ns(peer)

    def silence(self, peer: int) -> Silence:
        """Return how long an appliance has said nothing to inferences."""
        return self._appliance(peer).window.silence

    def leave(self) -> None:
        """Queue a CLOSE for every open session that is not kept, for an owner that waits for no answer."""
        self._out.clear()
        for peer, appliance in self._appliances.items():
            bounds = appliance.window.bounds
            if bounds and not appliance.kept:
                header = Header(Opcode.CLOSE, self._draw(63) or 1, Flag.CRC, session=bounds.session)
                self._out.extend((peer, pdu) for pdu in fragment_frames(*encode_message(Message(header), SMALL)))
        self._appliances.clear()
        self._gatherings.clear()

    def load(self, peer: int) -> int:
        """Return how many INFER requests are outstanding at the appliance or wait to be sent."""
        appliance = self._appliances.get(peer)
        return appliance.window.load if appliance else 0

    @property
    def pending(self) -> int:
        """Requests that are not settled."""
        loads = (appliance.window.load + appliance.control.load for appliance in self._appliances.values())
        return sum(loads) + len(self._gatherings)

    @property
    def bad_frames(self) -> int:
        """Frames and messages that could not be read."""
        return self._bad + sum(window.damaged for window in self._windows())

    @property
    def stale_replies(self) -> int:
        """Frames that nothing waited for."""
        return self._stale + sum(window.stale for window in self._windows())

    def ignore(self) -> None:
        """Count an answer that the owner could not read."""
        self._bad += 1

    def events(self) -> list[Event]:
        """Take what has become of requests since the last call."""
        events = self._events.copy()
        self._events.clear()  # the windows put theirs into the same list
        return events

    # ---- time and frames out -------------------------------------------------------------------------------------

    def next_timer(self) -> int | None:
        """Return when to_send has work at the latest; 0, which is at once, while events wait; None for never."""
        if self._events or self._out:
            return 0
        times = list(self._gatherings.times())
        for appliance in self._appliances.values():
            if appliance.opening:
                times.append(appliance.opening.due)
            for window in (appliance.window, appliance.control):
                timer = window.next_timer()
                if timer is not None:
                    times.append(timer)
        if len(self._reassembler):
            times.append(self._reassembler.next_timer() or 0)
        return min(times, default=None)

    def to_send(self, buffers: FrameBatch, now: int) -> int:
        """Write the PDUs to send now into buffers; return how many: fewer than there are buffers when that is all."""
        at = 0
        if len(self._reassembler):
            self._reassembler.expire(now)
        self._pass_time(now)
        while self._out and at < len(buffers):
            write_pdu(buffers, at, *self._out.popleft())
            at += 1
        for appliance in self._appliances.values():
            for window in (appliance.window, appliance.control):
                if at < len(buffers):
                    at += window.to_send(buffers.after(at) if at else buffers, now)
            if appliance.opening and not (appliance.window.load or appliance.control.load):
                appliance.opening = None
        return at

    def _pass_time(self, now: int) -> None:
        self._out.extend(self._gatherings.to_send(now))
        for peer, appliance in self._appliances.items():
            opening = appliance.opening
            if opening and (pdus := opening.to_send(now)):
                self._out.extend((peer, pdu) for pdu in pdus)
                if opening.asked > 1:
                    appliance.window.silence.unanswered(now, opening.due)

    # ---- frames in -----------------------------------------------------------------------------------------------

    def receive(self, batch: FrameBatch, now: int) -> None:
        """Take frames from the link; what nothing waits for is counted and dropped."""
        if len(batch) == 1:
            self._take_alike(batch, now)
            return
        long_enough = batch.lengths >= HEADER_SIZE
        if not long_enough.all():
            self._bad += len(batch) - int(np.count_nonzero(long_enough))
            batch = batch.take(np.flatnonzero(long_enough))
            if not len(batch):
                return
        words = self._headers.of(batch.memory)[batch.starts].view(np.uint64).reshape(-1, 4)
        differ = np.bitwise_or.reduce(words ^ words[0], axis=0).tolist()
        if not (differ[0] or differ[2] or differ[3]) and all_same(batch.lengths) and all_same(batch.peers):
            self._take_alike(batch, now, words[:, 1].byteswap())
            return
        self._take_mixed(batch, words, now)

    def _take_mixed(self, batch: FrameBatch, words: NDArray[np.uint64], now: int) -> None:
        """Take frames of several kinds, whose headers are given as words, uint64 [n, 4]."""
        several = have_several(words)
        if several.any():
            runs, bad = sound_runs(batch.take(several), words[several], self._smallest)
            self._bad += bad
            for run in runs:
                self._take_run(run, now)
            batch, words = batch.take(~several), words[~several]
        for same in alike(batch, words):
            self._take_alike(batch.take(same), now, words[same, 1].byteswap())

    def _take_run(self, run: Fragments, now: int) -> None:
        """Take sound fragments of one message that came together."""
        peer = int(run.batch.peers[0])
        window = self._window(peer, run.header)
        if window is None or run.header.opcode != window.reply:
            for index in range(len(run)):
                self._take(peer, run.batch.pdu(index).tobytes(), now)
            return
        window.take_fragments(run, now)
        self._check_session(window)

    def _take_alike(self, batch: FrameBatch, now: int, ids: NDArray[np.uint64] | None = None) -> None:
        """Take frames that are alike but for their request and their body: one, or with their ids many."""
        start, size, peer = int(batch.starts[0]), int(batch.lengths[0]), int(batch.peers[0])
        raw = batch.memory[start : start + min(size, HEADER_SIZE)].tobytes()
        if ids is None:
            ids = np.array([int.from_bytes(raw[_NUMBER], "big")], np.uint64)
        key = (peer, size, raw[:8], raw[16:])
        known = self._kinds.get(key)
        if known is None:
            try:
                known = self._learn(peer, batch)
            except FrameError:
                self._bad += len(batch)
                return
            if known is None:
                for index in range(len(batch)):
                    self._take(peer, batch.pdu(index).tobytes(), now)
                return
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            self._kinds[key] = known
        known[0].take_alike(known[1], batch, ids, now)

    def _learn(self, peer: int, batch: FrameBatch) -> tuple[RequestWindow, Alike] | None:
        """Return who takes frames like the first one by the batch; None where they are taken one by one."""
        header = decode_header(batch.pdu(0).data, self._smallest)
        check_flags(header.flags)
        window = self._window(peer, header)
        lone = header.opcode == Opcode.CONTROLLED  # each operation is waited for by itself
        if window is None or header.opcode != window.reply or lone or not Alike.plain(header):
            return None
        return window, Alike(header)

    def _window(self, peer: int, header: Header) -> RequestWindow | None:
        """Return the window that a frame may belong to."""
        appliance = self._appliances.get(peer)
        if appliance is None or header.opcode in (Opcode.OPENED, Opcode.ANNOUNCE):
            return None
        if header.session == 0:
            return None if header.opcode == Opcode.RESULT else appliance.control
        bounds = appliance.window.bounds
        return appliance.window if bounds and bounds.session == header.session else None

    def _take(self, peer: int, pdu: bytes, now: int) -> None:
        """Take one frame whose header was found to be sound."""
        header = decode_header(pdu, self._smallest)
        window = self._window(peer, header)
        try:
            if window:
                window.take(header, pdu, now)
            elif header.opcode == Opcode.ANNOUNCE and self._gatherings.knows(header.request):
                message = self._whole(peer, header, pdu, now)
                if message:
                    self._gatherings.take(peer, message)
            elif header.opcode == Opcode.OPENED:
                self._take_opened(peer, header, pdu, now)
            elif header.opcode != Opcode.UNKNOWN or not self._probes.take(peer, header.request, now):
                self._stale += 1
        except FrameError:
            self._bad += 1
        if window:
            self._check_session(window)

    def _check_session(self, window: RequestWindow) -> None:
        """Fail all requests of a session that an answer said is not open."""
        if window.gone:
            window.lose(status_error(Status.UNKNOWN_SESSION, "the session is gone; the appliance may have restarted"))
            self._kinds.clear()

    def _whole(self, peer: int, header: Header, pdu: bytes, now: int) -> Message | None:
        """Return the message that a frame makes whole, which must have a CRC."""
        if not header.flags & Flag.CRC:
            raise FrameError(Status.BAD_CRC, "a reply without the CRC that its request had")
        payload = pdu[HEADER_SIZE : HEADER_SIZE + header.payload_size]
        whole = self._reassembler.add(peer, header, payload, now)
        return decode_message(header, whole.payload) if whole else None

    # ---- sessions ------------------------------------------------------------------------------------------------

    def _open(self, appliance: KnownAppliance) -> None:
        if appliance.opening is None:
            link_mtu = self._mtu if appliance.overhead else max(self._mtu, MIN_MTU)  # which every link carries
            sizes = path_sizes(link_mtu, appliance.path_mtu, appliance.overhead)
            appliance.opening = Opening(sizes, self.limits, self._draw, appliance.resume, self._tenant)

    def _take_opened(self, peer: int, header: Header, pdu: bytes, now: int) -> None:
        appliance = self._appliances.get(peer)
        opening = appliance.opening if appliance else None
        if appliance is None or opening is None or not opening.knows(header.request):
            self._stale += 1
            return
        message = self._whole(peer, header, pdu, now)
        if message is None:
            return
        appliance.window.silence.heard(now)
        sample = opening.round_trip(header.request, now)
        if sample is not None:
            appliance.round_trip.measure(sample)
        try:
            opened = opening.take(message, now)
        except NapuError as error:
            appliance.opening = None
            appliance.window.lose(error)
            opened = None
        appliance.path_mtu = opening.path_mtu
        appliance.control.widen(fragment_size_for(opening.path_mtu))
        appliance.window.refusal = opening.refusal
        if opening.refusal and not opened and self.limits.hand_back:
            appliance.window.withdraw_unsent(opening.refusal)
        if opened:
            appliance.opening, appliance.resume = None, 0
            if appliance.window.bounds is None:
                appliance.window.opened(opened.bounds)
            self._kinds.clear()

    def _appliance(self, peer: int) -> KnownAppliance:
        appliance = self._appliances.get(peer)
        if appliance is None:
            appliance = self._appliances[peer] = KnownAppliance.new(peer, self.limits, self._shared)
        return appliance

    def _windows(self) -> Iterable[RequestWindow]:
        for appliance in self._appliances.values():
            yield appliance.window
            yield appliance.control
