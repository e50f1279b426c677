"""Faults of a cable as data, and as a line of text."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from host_sdk.wire.errors import ConfigError

_CHANCES = ("loss", "burst_enter", "burst_leave", "burst_loss", "duplicate", "reorder", "flip", "truncate")
_TIMES = ("reorder_ns", "delay_ns", "jitter_ns")
_LONGEST_NS = 3_600_000_000_000
_LAST_FRAGMENT = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What a cable does to the frames of one direction. By itself: nothing.

    Chances are from 0 to 1 and for each frame. Frames and times are counted from when the faults were set on a link.

    Attributes:
        loss: Chance that a frame is lost; of the Gilbert-Elliott model, that in its good state.
        burst_enter: Chance to go from the good state to the bad one, at a frame; above 0 turns that model on.
        burst_leave: Chance to go back, at a frame; the bad state lasts 1 / burst_leave frames on average.
        burst_loss: Chance that a frame is lost in the bad state.
        nth: Numbers of frames that are lost, the first frame being 1.
        fragment: Indices of fragments that are lost: 0 is the first of a message, and all of a message of one frame.
        fragment_times: Frames that are lost so at most; 0 is without limit.
        duplicate: Chance that a frame comes twice, one behind the other.
        reorder: Chance that a frame is held back.
        reorder_frames: Frames that overtake a frame held back.
        reorder_ns: ns after which it is let go in any case.
        delay_ns: ns that every frame takes longer.
        jitter_ns: ns up to which a frame takes longer still, evenly distributed; frames may overtake each other.
        flip: Chance that one bit of a frame is wrong.
        truncate: Chance that a frame loses its end, one byte at least being left.
        rate: Bit/s of PDUs that get through, one after the other; 0 is without limit.
        blackhole: Times in ns between which every frame is lost, the latter excluded.

    Raises:
        ConfigError: A value is out of its range.
    """

    loss: float = 0.0
    burst_enter: float = 0.0
    burst_leave: float = 0.25
    burst_loss: float = 1.0
    nth: frozenset[int] = frozenset()
    fragment: frozenset[int] = frozenset()
    fragment_times: int = 1
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_frames: int = 3
    reorder_ns: int = 10_000_000
    delay_ns: int = 0
    jitter_ns: int = 0
    flip: float = 0.0
    truncate: float = 0.0
    rate: int = 0
    blackhole: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in _CHANCES:
            if not 0 <= (chance := getattr(self, name)) <= 1:  # a NaN is not, either
                raise ConfigError(f"faults: {name} is a chance from 0 to 1 (0% to 100%), not {chance}")
        if self.burst_enter + self.burst_leave > 1:
            raise ConfigError(
                f"faults: burst_enter {self.burst_enter} and burst_leave {self.burst_leave} are more than 1 together; "
                "make one smaller, or use loss alone, which is for losses that do not come in bursts"
            )
        for name in _TIMES:
            if not 0 <= (time_ns := getattr(self, name)) <= _LONGEST_NS:
                raise ConfigError(f"faults: {name} is from 0 to {_LONGEST_NS} (an hour), not {time_ns}")
        if self.reorder_frames < 1:
            raise ConfigError(f"faults: reorder_frames is 1 or more, not {self.reorder_frames}")
        if self.rate < 0:
            raise ConfigError(f"faults: rate is in bit/s and 0 (no limit) or more, not {self.rate}")
        if any(number < 1 for number in self.nth):
            raise ConfigError(f"faults: nth counts frames from 1, so it has no {min(self.nth)}")
        if any(not 0 <= index <= _LAST_FRAGMENT for index in self.fragment):
            raise ConfigError(f"faults: fragment is an index from 0 to {_LAST_FRAGMENT}, not {max(self.fragment)}")
        if self.fragment_times < 0:
            raise ConfigError(f"faults: fragment_times is 0 (no limit) or more, not {self.fragment_times}")
        if self.blackhole is not None and not 0 <= self.blackhole[0] < self.blackhole[1]:
            raise ConfigError(f"faults: a blackhole begins at 0 or later and ends after that, not {self.blackhole}")

    @property
    def holds(self) -> bool:
        """Whether frames may have to wait."""
        return bool(self.reorder or self.delay_ns or self.jitter_ns or self.rate)


_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([A-Za-zµ%/]*)")
_TIME_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_RATE_UNITS = {"bit": 1, "kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}


def _number(text: str, units: dict[str, int | Fraction], wanted: str) -> Fraction:
    """Return a number times its unit, exactly."""
    match = _NUMBER.fullmatch(text)
    unit = units.get(match[2]) if match else None
    if match is None or unit is None:
        raise ConfigError(f"{text!r} is not {wanted}")
    return Fraction(match[1]) * unit


def _chance(text: str) -> float:
    return float(_number(text, {"%": Fraction(1, 100), "": 1}, "a chance; write it as 5% or 0.05"))


def _time(text: str) -> int:
    return round(_number(text, {**_TIME_UNITS}, "a time; write it as 100us, 1.5ms or 2s"))


def _rate(text: str) -> int:
    return round(_number(text.lower(), {**_RATE_UNITS}, "a rate; write it as 10Mbit, 500kbit or 1Gbit"))


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"{text!r} is not a number of frames; write it as 3")
    return int(text)


def _numbers(text: str) -> frozenset[int]:
    return frozenset(_count(number) for number in text.split("+"))


def _period(text: str) -> tuple[int, int]:
    begin, dash, end = text.partition("-")
    if not dash:
        raise ConfigError(f"{text!r} is not a period; write it as 2s-3.5s")
    return _time(begin), _time(end)


_KEYS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "loss": ("loss", _chance),
    "burst-enter": ("burst_enter", _chance),
    "burst-leave": ("burst_leave", _chance),
    "burst-loss": ("burst_loss", _chance),
    "nth": ("nth", _numbers),
    "fragment": ("fragment", _numbers),
    "fragment-times": ("fragment_times", _count),
    "duplicate": ("duplicate", _chance),
    "reorder": ("reorder", _chance),
    "reorder-frames": ("reorder_frames", _count),
    "reorder-time": ("reorder_ns", _time),
    "delay": ("delay_ns", _time),
    "jitter": ("jitter_ns", _time),
    "flip": ("flip", _chance),
    "truncate": ("truncate", _chance),
    "rate": ("rate", _rate),
    "blackhole": ("blackhole", _period),
}


def parse_faults(text: str) -> Faults:
    """Return the faults that a line of text lists, as ``loss=5%,delay=1ms,jitter=100us,rate=10Mbit,nth=3+7``.

    Keys are the attributes of :class:`Faults` with hyphens, and ``reorder-time``, ``delay`` and ``jitter`` for those in
    ns. Chances are ``5%`` or ``0.05``, times have a unit, ``blackhole=2s-3s`` is a period. No text is no faults.

    Raises:
        ConfigError: A key is unknown or there twice, or a value makes no sense.
    """
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"faults: {key!r} is no fault; {meant}There are {', '.join(_KEYS)}")
        name, parse = _KEYS[key]
        if name in values:
            raise ConfigError(f"faults: {key} is there twice; leave one of them out")
        if not equals:
            raise ConfigError(f"faults: {key} has no value; write it as in loss=5% or delay=1ms")
        try:
            values[name] = parse(value)
        except ConfigError as error:
            raise ConfigError(f"faults: {key}: {error}") from None
    return Faults(**values)
