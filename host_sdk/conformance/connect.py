"""From a line of text to a target: its link, its address, what it announces, and what it can be asked."""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from host_sdk.access.identity import Identity
from host_sdk.client import NapuClient
from host_sdk.conformance.case import DeadTargetError, FailedError
from host_sdk.conformance.frames import CRC, Frame
from host_sdk.conformance.rig import Rig
from host_sdk.conformance.target import Target, Work, sample
from host_sdk.results import Pipeline, unpack_map
from host_sdk.wire.errors import ConfigError, NapuError
from host_sdk.wire.links.auto import open_link
from host_sdk.wire.links.base import BROADCAST, Link
from host_sdk.wire.schema import ETHERTYPE, UDP_PORT, Opcode, Status

_TRIES, _GREETING_NS = 2, 500_000_000
_KINDS = "udp:HOST[:PORT], packet:IFACE[:MAC], xdp:IFACE[:MAC]"


def parse_target(text: str) -> tuple[str, str]:
    """Return the link's text and the target's address, which may be empty, of ``LINK[:ADDRESS]``.

    Raises:
        ConfigError: It is no such text.
    """
    kind, _, rest = text.partition(":")
    if kind == "udp" and rest:
        return "udp:0.0.0.0:0", rest if ":" in rest else f"{rest}:{UDP_PORT}"
    if kind in ("packet", "xdp") and rest:
        interface, _, address = rest.partition(":")
        return f"{kind}:{interface}", address
    raise ConfigError(f"target {text!r} is none; write {_KINDS}")


@contextmanager
def connected(
    text: str, *, pipeline: str = "", body: bytes | None = None, identity: Path | None = None, patience: float = 1.0
) -> Iterator[Rig]:
    """Give a rig at a target, which answers.

    Args:
        text: ``LINK[:ADDRESS]``.
        pipeline: Name of the one to infer with; by default the smallest that takes a tensor.
        body: What it is asked; by default zeros, or a grey picture.
        identity: Directory of the identity to ask for pipelines as.
        patience: Factor of all times.

    Raises:
        ConfigError: The text is no target, or it does not serve the pipeline.
        DeadTargetError: It does not answer.
        LinkError: The link cannot be opened.
    """
    spec, address = parse_target(text)
    with ExitStack() as stack:
        link = stack.enter_context(_opened(spec))
        peer = link.parse_address(address) if address else _only_one(link)
        second = stack.enter_context(_opened(spec)) if link.kind == "udp" else None
        forge = _forger(spec.partition(":")[2], peer, stack) if link.kind != "udp" else None
        target = Target(link, peer, time.monotonic_ns, second, forge)
        rig = Rig(target, patience)
        greet(rig, link.format_address(peer))
        listed = _described(rig, link.format_address(peer), identity)
        choose_work(rig, listed, pipeline, body)
        yield rig


@contextmanager
def _opened(spec: str) -> Iterator[Link]:
    link = open_link(spec).link
    try:
        yield link
    finally:
        link.close()


def _only_one(link: Link) -> int:
    """Return the peer key of the one appliance that answers a broadcast."""
    finder = Rig(Target(link, BROADCAST, time.monotonic_ns))
    finder.send(Frame(Opcode.DISCOVER, b"", finder.number(), CRC).encode())
    found: set[int] = set()
    end = time.monotonic_ns() + 500_000_000
    while (left := end - time.monotonic_ns()) > 0:
        if link.wait(left):
            batch = link.receive()
            found.update(int(peer) for peer in batch.peers)
    if len(found) != 1:
        names = ", ".join(link.format_address(key) for key in sorted(found)) or "none"
        raise ConfigError(f"{len(found)} appliances answer a broadcast ({names}); name one: {_KINDS}")
    return found.pop()


def greet(rig: Rig, name: str) -> None:
    """Ask a target who it is.

    Raises:
        DeadTargetError: It does not answer, or not with a map.
    """
    for _ in range(_TRIES):
        try:
            reply = rig.answer(rig.put(Frame(Opcode.DISCOVER, b"", 0, CRC)), within_ns=_GREETING_NS)
        except FailedError as failure:
            problem = str(failure)
            continue
        if reply.status == Status.OK and reply.unpacked():
            rig.target.announced = reply.unpacked()
            return
        problem = f"its ANNOUNCE has status {reply.status} and no map"
    raise DeadTargetError(f"{name} does not answer a DISCOVER: {problem}")


def _described(rig: Rig, address: str, identity: Path | None) -> list[Pipeline]:
    """Return the pipelines of a target, as far as one may ask for them; with an identity, get a key as well."""
    if rig.target.open_access:
        return described(rig)
    if identity is None:
        return []
    # Over the rig's own link, as a key is good between two addresses; who opened that closes it.
    client = NapuClient(rig.target.link, address, identity=Identity.load(identity))
    rig.target.key = client.seal_key(address)
    return client.pipelines()


def described(rig: Rig) -> list[Pipeline]:
    """Return the pipelines of a target with open access."""
    try:
        reply = rig.has_status(rig.ask(rig.control("pipelines")), Status.OK)
        return [Pipeline.parse(entry) for entry in unpack_map(reply.body)["pipelines"]]
    except (FailedError, NapuError, KeyError, TypeError) as error:
        raise DeadTargetError(f"it does not say what pipelines it has: {error}") from None


def choose_work(rig: Rig, listed: list[Pipeline], name: str = "", body: bytes | None = None) -> None:
    """Choose what a target is asked to infer, and ask it once.

    Raises:
        ConfigError: It does not serve the pipeline, or does not take the body.
    """
    target = rig.target
    told = [entry for entry in target.announced.get("pipelines", ()) if isinstance(entry, dict)]
    handles = {str(entry.get("name")): int(entry.get("handle", 0)) for entry in told}
    handles |= {pipeline.name: pipeline.handle for pipeline in listed}
    target.handles = frozenset(handles.values())
    if name and name not in handles:
        raise ConfigError(f"it serves no pipeline {name!r}; there are: {', '.join(handles) or 'none'}")
    usable = [pipeline for pipeline in listed if not pipeline.sealed and name in ("", pipeline.name)]
    if usable:
        best = min(usable, key=lambda one: (one.input is None, one.input.size if one.input else 0, one.name))
        work = Work(best.handle, sample(best) if body is None else body, best)
    elif name and body is not None:
        work = Work(handles[name], body)
    else:
        target.no_work = "no pipeline takes plain requests" if listed else "nobody may ask what its pipelines take"
        if name:
            target.no_work += f"; {name} could be asked with --input FILE"
        return
    target.work = work
    session = rig.open()
    try:
        reply = rig.ask(rig.infer(session))
    finally:
        rig.finish()
    if reply.status == Status.NOT_SEALED:
        target.work, target.no_work = None, "its pipelines take sealed requests alone"
    elif reply.status != Status.OK:
        raise ConfigError(f"its pipeline does not take the body: status {reply.status}; choose another with --input")
    else:
        target.work = replace(work, answer=reply.body)


def _forger(interface: str, peer: int, stack: ExitStack) -> Callable[[int, bytes], None]:
    """Return what sends a PDU over an Ethernet interface from any address."""
    raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    raw.bind((interface, 0))

    def forge(source: int, pdu: bytes) -> None:
        raw.send(peer.to_bytes(6, "big") + source.to_bytes(6, "big") + struct.pack(">H", ETHERTYPE) + pdu)

    return forge
