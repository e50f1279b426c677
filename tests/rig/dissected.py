"""Capture files made of known frames, and what tshark with our dissector says of them."""

import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from host_sdk.capture.dissector import product
from host_sdk.capture.tapped import ip_udp_headers
from host_sdk.wire.schema import ETHERTYPE

TSHARK = shutil.which("tshark", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
needs_tshark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
EPOCH_NS = 1_700_000_000_000_000_000
REQUESTER, RESPONDER = 0x020000000001, 0x020000000002
LUA_ERROR = "_ws.lua.error"


def over_ethernet(pdu: bytes, source: int, destination: int) -> bytes:
    """Return the Ethernet frame of a PDU, as it is: not padded."""
    return destination.to_bytes(6, "big") + source.to_bytes(6, "big") + ETHERTYPE.to_bytes(2, "big") + pdu


def over_udp(pdu: bytes, source: int, destination: int) -> bytes:
    """Return the Ethernet frame of a PDU in UDP over IPv4, between two peer keys of a UDP link."""
    headers = ip_udp_headers(source, destination, len(pdu))
    return bytes.fromhex("020000000002 020000000001 0800") + headers + pdu


def write_capture(path: Path, frames: Iterable[tuple[int, bytes]], snap: int = 1 << 18) -> Path:
    """Write a pcap file in ns.

    Args:
        path: The file.
        frames: Time of each in ns since the first, and its bytes.
        snap: Bytes of each that are kept.
    """
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 18, 1))
        for time, frame in frames:
            at, kept = EPOCH_NS + time, frame[:snap]
            file.write(struct.pack("<IIII", at // 10**9, at % 10**9, len(kept), len(frame)) + kept)
    return path


def tshark(path: Path, *arguments: str, two_pass: bool = False, script: Path | None = None) -> str:
    """Return what tshark prints of a capture with the dissector as it is committed.

    It has a home of its own, so that no dissector that was installed gets in its way.
    """
    assert TSHARK is not None
    if script is None:
        script = path.parent / product.PRODUCT
        script.write_text(product.committed(), encoding="utf-8")
    home = path.parent / "home"
    home.mkdir(exist_ok=True)
    command = [TSHARK, "-n", "-X", f"lua_script:{script}", "-r", str(path), *(["-2"] if two_pass else []), *arguments]
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tshark_fields(
    path: Path, names: Sequence[str], *, two_pass: bool = False, more: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Return, for each frame, the fields that it has; several of one name are joined by commas.

    Args:
        path: The capture.
        names: The fields.
        two_pass: Whether tshark reads all before it shows anything.
        more: Further arguments of tshark.

    Raises:
        AssertionError: The dissector failed on a frame.
    """
    asked = [*names, LUA_ERROR]
    options = [part for name in asked for part in ("-e", name)]
    text = tshark(path, "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", *options, *more, two_pass=two_pass)
    rows = []
    for line in text.split("\n")[:-1]:
        row = {name: value for name, value in zip(asked, line.split("\t"), strict=True) if value}
        assert LUA_ERROR not in row, tshark(path, "-Y", LUA_ERROR, "-V", *more)[:2000]
        rows.append(row)
    return rows
