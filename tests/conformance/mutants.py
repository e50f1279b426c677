"""Devices that are wrong on purpose, each in one thing: what the suite is worth shows by how many it finds out.

Run as ``python -m tests.conformance.mutants`` it prints the kill rate, and every mutant that lives.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from appliance.dataplane import messages
from appliance.dataplane.answers import AnswerWindows
from appliance.dataplane.copies import Copies
from appliance.dataplane.counters import Counters
from appliance.dataplane.messages import Messages, TokenBucket
from appliance.dataplane.sessions import Opening, SessionTable
from appliance.dataplane.table import PipelineTable
from appliance.device import Device
from host_sdk.conformance.case import DeadTargetError
from host_sdk.conformance.run import Outcome, Verdict, run_all
from host_sdk.conformance.seals import SEALED, with_seal
from host_sdk.conformance.suite import chosen
from host_sdk.wire import message
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.exchange.reassembly import Reassembler
from host_sdk.wire.exchange.states import SlotState
from host_sdk.wire.header import Header
from host_sdk.wire.sealed.keys import SealKey
from host_sdk.wire.sealed.window import ReplayWindow
from tests.conformance.alter import field, on, with_fields
from tests.conformance.device import KEY, World, device_world
from tests.conformance.mutants_heard import HEARD
from tests.conformance.mutants_told import TOLD
from tests.rig.packages import tensor_package
from tests.rig.tiny_models import doubler

LEAST_KILLED = 0.95


@dataclass(frozen=True)
class Mutant:
    """A device that is wrong in one thing.

    Attributes:
        name: What is wrong.
        rules: That it breaks; the cases of these have to find it out.
        spoil: Makes a right device wrong, until the stack is closed.
        long: Whether its pipeline's answers need several fragments.
        mutual: Whether its access is mutual.
    """

    name: str
    rules: tuple[str, ...]
    spoil: Callable[[World, ExitStack], Any]
    long: bool = False
    mutual: bool = False


def long_package() -> bytes:
    """Return a pipeline whose answers have 4000 bytes."""
    return tensor_package("long", doubler((1, 1000)))


def _told(name: str) -> Mutant:
    rules, alter = TOLD[name]
    return Mutant(name, tuple(rules.split()), lambda world, _: setattr(world.link, "tell", alter))


def _heard(name: str) -> Mutant:
    rules, hear, tell = HEARD[name]

    def spoil(world: World, _: ExitStack) -> None:
        world.link.hear, world.link.tell = hear(), tell

    return Mutant(name, tuple(rules.split()), spoil)


def _patched(owner: Any, **changed: Any) -> Callable[[World, ExitStack], None]:
    def spoil(_: World, stack: ExitStack) -> None:
        stack.enter_context(patch.multiple(owner, **changed))

    return spoil


# ---- wrong functions of the dataplane --------------------------------------------------------------------------------

_open, _locate, _open_key = SessionTable.open, SessionTable.locate, SealKey.open
_states, _settle = AnswerWindows.states, AnswerWindows.settle


def _always_new(table: SessionTable, opening: Opening, now: int) -> Any:
    return table._begin(opening, np.empty(0, np.intp), now)


def _resume_any(table: SessionTable, opening: Opening, now: int) -> Any:
    found = np.flatnonzero(table._ids[: table._fresh] == np.uint32(opening.resume)) if opening.resume else ()
    return table._found(int(found[0]), now) if len(found) else _open(table, opening, now)


def _resume_none(table: SessionTable, opening: Opening, now: int) -> Any:
    again = np.flatnonzero(table._bases[: table._fresh] == np.uint64(opening.request))
    return table._found(int(again[0]), now) if len(again) else table._begin(opening, np.empty(0, np.intp), now)


def _of_anybody(table: SessionTable, sessions: Any, _peers: Any, now: int) -> Any:
    slots = np.minimum(sessions.astype(np.uint32) & np.uint32(0xFFFF), np.uint32(len(table._ids) - 1))
    return _locate(table, sessions, table._peers[slots], now)


def _close_nothing(table: SessionTable, session: int, peer: int) -> list[int]:
    return [session & 0xFFFF] if table.find(session, peer, 0) else []


def _close_anybodys(table: SessionTable, session: int, _peer: int) -> list[int]:
    slot = session & 0xFFFF
    return table._end(np.array([slot])) if session and slot < table._fresh and table._ids[slot] == session else []


def _no_outdated(windows: AnswerWindows, places: Any, ids: Any) -> Any:
    states = _states(windows, places, ids)
    states[states >= SlotState.RELEASED] = SlotState.NEW
    return states


def _settle_all(windows: AnswerWindows, slot: int, _upto: int, _bitmap: bytes = b"") -> None:
    _settle(windows, slot, 1 << 62)


def _settle_up_to(windows: AnswerWindows, slot: int, upto: int, _bitmap: bytes = b"") -> None:
    _settle(windows, slot, upto)


def _other_answer(windows: AnswerWindows, place: int) -> Any:
    size = int(windows.sizes[place])
    pdu = bytearray(windows._pool(size).records(size)[place].tobytes())
    pdu[-1] ^= 1
    return bytes(pdu)


def _first_pipeline(table: PipelineTable, handle: int) -> Any:
    return next((loaded for loaded in table if loaded.pipeline.handle == handle), next(iter(table)))


def _no_blocks(payload: bytes) -> Any:
    return (), min(len(payload), int.from_bytes(payload[:4], "big") & ~3)


def _counted_twice(counters: Counters, reason: int, count: int = 1) -> None:
    counters._frames[reason] += np.uint64(2 * count)


def _unload_first(device: Device, _package: bytes) -> dict[str, object]:
    for entry in device.pipelines():
        device.unload_pipeline(str(entry["name"]))
    raise ConfigError("cannot be loaded")


def _all_at_once(copies: Copies, peer: int, _header: Header, place: int, *_: object) -> None:
    answer = copies._state.answers.kept(place)
    if isinstance(answer, bytes):
        copies._replies.again(peer, answer)
    else:
        copies._replies.fragments(peer, answer.header, answer.payload, np.arange(answer.header.fragments))


def _anything(_: Messages, peer: int, asked: message.Message) -> Opening:
    return Opening(peer, asked.header.request, 1400)


def _full_fragments(world: World, _: ExitStack) -> None:
    sizes = world.device._state.sessions
    describe = sizes._describe

    def describe_wider(slot: int, opening: Opening) -> None:
        describe(slot, opening)
        sizes.fragment_sizes[slot] = 1400

    sizes._describe = describe_wider  # type: ignore[method-assign]


def _many_unasked(world: World, _: ExitStack) -> None:
    sizes = world.device._state.sessions
    describe = sizes._describe

    def describe_more(slot: int, opening: Opening) -> None:
        describe(slot, opening)
        sizes.reply_fragments[slot] = 65535

    sizes._describe = describe_more  # type: ignore[method-assign]


def _unpadded_link(world: World, _: ExitStack) -> None:
    world.link.smallest = world.device._dataplane._landing._smallest = 0


_PATCHED: dict[str, tuple[str, Callable[[World, ExitStack], None]]] = {
    "takes Ethernet's padding for trailing bytes": ("N-007", _unpadded_link),
    "opens a new session for every copy of an OPEN": ("N-060", _patched(SessionTable, open=_always_new)),
    "resumes anybody's session": ("N-102", _patched(SessionTable, open=_resume_any)),
    "resumes nothing": ("N-101", _patched(SessionTable, open=_resume_none)),
    "lets a session belong to everybody": ("N-061", _patched(SessionTable, locate=_of_anybody)),
    "closes nothing": ("N-065", _patched(SessionTable, close=_close_nothing)),
    "closes anybody's session": ("N-061", _patched(SessionTable, close=_close_anybodys)),
    "steps over no ids when a session is resumed": ("N-119", _patched(messages, RESUMPTION_STEP=1)),
    "opens for whatever is asked": (
        "N-058",
        _patched(Messages, _opening=_anything),
    ),
    "takes any number of requests": (
        "N-103",
        _patched(SessionTable, limit=lambda *_: 1 << 20, limits=lambda _, slots: np.full(len(slots), 1 << 20)),
    ),
    "never gives a credit back": ("N-103", _patched(SessionTable, give_back=lambda *_: None)),
    "runs the first pipeline for any handle": ("N-070", _patched(PipelineTable, get=_first_pipeline)),
    "passes over broken extensions": ("N-043", _patched(message, _decode_extensions=_no_blocks)),
    "answers every DISCOVER": ("N-094", _patched(TokenBucket, take=lambda *_: True)),
    "executes what is outdated": ("N-111", _patched(AnswerWindows, states=_no_outdated)),
    "settles everything at any SETTLE": ("N-112", _patched(AnswerWindows, settle=_settle_all)),
    "passes over the bitmap of a SETTLE": ("N-111", _patched(AnswerWindows, settle=_settle_up_to)),
    "gives another answer again": ("N-113", _patched(AnswerWindows, kept=_other_answer)),
    "gives no message up": ("N-123", _patched(Messages, expire=lambda *_: None)),
    "forgets that a message was whole": ("N-033", _patched(Reassembler, _finish=lambda *_: None)),
    "counts frames twice": ("N-089", _patched(Counters, move=_counted_twice)),
    "drops a pipeline when a package of its name is refused": ("N-084", _patched(Device, load_pipeline=_unload_first)),
}
_LONG: dict[str, tuple[str, Callable[[World, ExitStack], None]]] = {
    "answers in fragments of its own size": ("N-108", _full_fragments),
    "sends long answers at once": ("N-114", _many_unasked),
    "sends all of a long answer at a RESEND": ("N-117", _patched(Copies, replay=_all_at_once)),
}


def _any_tag(key: SealKey, frames: list[Any]) -> list[int]:
    _open_key(key, frames)
    return []


def _unseal(world: World, _: ExitStack) -> None:
    for loaded in world.device._state.table:
        loaded.sealed = False


def _told_sealed(make: Callable[[bytes], bytes]) -> Callable[[World, ExitStack], None]:
    alter = on(lambda pdu: bool(field(pdu, "flags") & SEALED), make)
    return lambda world, _: setattr(world.link, "tell", alter)


_MUTUAL: dict[str, tuple[str, Callable[[World, ExitStack], None]]] = {
    "takes sealed frames with any tag": ("N-130", _patched(SealKey, open=_any_tag)),
    "takes sealed frames again": (
        "N-131",
        _patched(ReplayWindow, is_fresh=lambda *_: True, fresh=lambda _, sequences: np.ones(len(sequences), np.bool_)),
    ),
    "takes sequences in order alone": (
        "N-132",
        _patched(ReplayWindow, is_fresh=lambda window, sequence: sequence > window.highest),
    ),
    "answers sealed requests without a seal": (
        "N-135",
        _told_sealed(lambda pdu: with_fields(pdu, flags=field(pdu, "flags") & ~SEALED)),
    ),
    "seals every frame under sequence 1": ("N-127", _told_sealed(lambda pdu: with_seal(pdu, KEY, 1))),
    "takes everything in the clear": ("N-136", _unseal),
}


def mutants() -> Iterator[Mutant]:
    """Yield all mutants."""
    yield from map(_told, TOLD)
    yield from map(_heard, HEARD)
    for name, (rules, spoil) in _PATCHED.items():
        yield Mutant(name, tuple(rules.split()), spoil)
    for name, (rules, spoil) in _LONG.items():
        yield Mutant(name, tuple(rules.split()), spoil, long=True)
    for name, (rules, spoil) in _MUTUAL.items():
        yield Mutant(name, tuple(rules.split()), spoil, mutual=True)


def attack(mutant: Mutant, directory: Path) -> list[Outcome]:
    """Run the cases of the rules that a mutant breaks; return those that found it out."""
    found: list[Outcome] = []
    package = long_package() if mutant.long else tensor_package("raw")
    with ExitStack() as stack:
        world = stack.enter_context(device_world(directory, package, mutual=mutant.mutual))
        world.get_ready()
        mutant.spoil(world, stack)
        with suppress(DeadTargetError):  # after a case that failed, which is in the list
            for outcome in run_all(chosen(mutant.rules), world.rig):
                found += [outcome] if outcome.verdict is Verdict.FAIL else []
    return found


def main() -> int:
    """Print the kill rate; return 0 where it is high enough."""
    alive, total = [], 0
    for mutant in mutants():
        with tempfile.TemporaryDirectory() as directory:
            found = attack(mutant, Path(directory))
        total += 1
        if not found:
            alive.append(mutant)
            sys.stdout.write(f"lives: {mutant.name} ({' '.join(mutant.rules)})\n")
    rate = 1 - len(alive) / total
    sys.stdout.write(f"{total - len(alive)} of {total} mutants were found out: {rate:.1%}\n")
    return 0 if rate >= LEAST_KILLED else 1


if __name__ == "__main__":
    sys.exit(main())
