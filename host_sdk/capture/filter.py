"""Filters of captures: ``opcode=INFER,RESULT status=BUSY``, worked out for whole batches."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from host_sdk.capture.frames import CapturedPdus
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.links.ethernet import parse_mac
from host_sdk.wire.schema import REPLY_BIT, DropReason, Opcode, Status

KEYS = ("opcode", "session", "request", "status", "pipeline", "peer")
MAX_TERMS, MAX_VALUES = 16, 256
_TERM = re.compile(r"(\w+)(!?=)(\S+)")
_ADDRESS = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?::(\d{1,5}))?")
_WIDTHS = {"session": 32, "request": 64, "pipeline": 16}


@dataclass(frozen=True, slots=True)
class _Peer:
    """An address; of UDP possibly of any port."""

    key: int
    udp: bool
    any_port: bool = False


@dataclass(frozen=True, slots=True)
class _Term:
    key: str
    wanted: bool  # =, else !=
    values: tuple[int, ...] = ()
    peers: tuple[_Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class FrameFilter:
    """Which frames to take: those of this protocol for which every term holds; without terms, all of those.

    A term is ``key=value,value…`` (one of the values) or ``key!=value,value…`` (none of them). Keys: ``opcode`` and
    ``status`` (by name or number; only replies have a status), ``session``, ``request``, ``pipeline`` (numbers,
    decimal or 0x…), ``peer`` (either end: a MAC address, an IPv4 address, or that and a port).
    """

    terms: tuple[_Term, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "FrameFilter":
        """Return the filter that a text describes.

        Raises:
            ConfigError: It describes none; says which term and why.
        """
        words = text.split()
        if len(words) > MAX_TERMS:
            raise ConfigError(f"a filter of {len(words)} terms; at most {MAX_TERMS} are taken")
        return cls(tuple(_parse_term(word) for word in words))

    def mask(self, pdus: CapturedPdus) -> NDArray[np.bool_]:
        """Return which frames to take, bool [n]."""
        taken = pdus.found.copy()
        for term in self.terms:
            taken &= _holds(term, pdus)
        return taken


def _holds(term: _Term, pdus: CapturedPdus) -> NDArray[np.bool_]:
    """Return for which frames a term holds, bool [n]."""
    headers = pdus.headers
    matches: NDArray[np.bool_] = np.zeros(len(headers), np.bool_)
    if term.key == "peer":
        for peer in term.peers:
            for keys in (pdus.sources, pdus.destinations):
                shift = np.uint64(16 if peer.any_port else 0)
                matches |= (pdus.udp == peer.udp) & (keys >> shift == np.uint64(peer.key) >> shift)
    else:
        matches = np.isin(headers[term.key].astype(np.uint64), np.array(term.values, np.uint64))
    holds: NDArray[np.bool_] = matches == term.wanted
    if term.key == "status":  # requests have a deadline in its place
        holds &= headers["opcode"] & REPLY_BIT != 0
    return holds


def _parse_term(word: str) -> _Term:
    found = _TERM.fullmatch(word)
    if found is None:
        raise ConfigError(f"{word!r} is no term of a filter; write key=value, as in status=BUSY or opcode=INFER,RESULT")
    key, sign, values = found.groups()
    if key not in KEYS:
        raise ConfigError(f"a filter knows no {key!r}; it knows {', '.join(KEYS)}")
    texts = values.split(",")
    if len(texts) > MAX_VALUES:
        raise ConfigError(f"{len(texts)} values of {key}; at most {MAX_VALUES} are taken")
    if key == "peer":
        return _Term(key, sign == "=", peers=tuple(_parse_peer(text) for text in texts))
    parse: Callable[[str], int] = {
        "opcode": lambda text: parse_code(Opcode, "opcode", text, 0xFF),
        "status": lambda text: parse_code(Status, "status", text, 0xFFFF),
    }.get(key, lambda text: parse_number(key, text, (1 << _WIDTHS[key]) - 1))
    return _Term(key, sign == "=", tuple(parse(text) for text in texts))


def parse_number(key: str, text: str, largest: int) -> int:
    """Return a number, decimal or 0x….

    Raises:
        ConfigError: It is none, or out of range.
    """
    try:
        value = int(text, 16) if text[:2].lower() == "0x" else int(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no {key}: a number is wanted, decimal or 0x…") from None
    if not 0 <= value <= largest:
        raise ConfigError(f"{key} {text} is out of range; at most {largest} fits")
    return value


def parse_code(codes: type[Opcode] | type[Status] | type[DropReason], key: str, text: str, largest: int) -> int:
    """Return a code by its name, or a number.

    Raises:
        ConfigError: No code is called so.
    """
    members: dict[str, IntEnum] = dict(codes.__members__)
    if text.upper() in members:
        return int(members[text.upper()])
    if text[:1].isdigit():
        return parse_number(key, text, largest)
    raise ConfigError(f"no {key} is called {text}; there are: {', '.join(members)}")


def _parse_peer(text: str) -> _Peer:
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return _Peer(parse_mac(text), udp=False)
    parts, port = [int(part) for part in found.groups()[:4]], found.group(5)
    if max(parts) > 0xFF or int(port or 0) > 0xFFFF:
        raise ConfigError(f"{text!r} is no IPv4 address and port")
    return _Peer(int.from_bytes(bytes(parts), "big") << 16 | int(port or 0), udp=True, any_port=port is None)
