"""Upgrades against an appliance of the test's own, whose link fails and which may lie."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host_sdk import upgrade as module
from host_sdk.upgrade import FirmwareImage, Upgrade
from host_sdk.wire.errors import (
    BadArgumentError,
    ConfigError,
    DeviceError,
    NapuTimeoutError,
    RemoteProtocolError,
    UnavailableError,
)

BLOCK, PART = 4096, 10_000
DATA = b"NAPUFW\0\0" + bytes(range(256)) * 200
IMAGE = FirmwareImage(DATA, hashlib.sha256(DATA).digest())
OLD = "0" * 64


class Appliance:
    """Keeps what it is sent in blocks, as boards do; ``trouble`` is asked before each operation and may raise."""

    def __init__(self, trouble: Callable[["Appliance", str], None] = lambda *_: None) -> None:
        self.trouble = trouble
        self.calls: list[str] = []
        self.flash, self.buffer, self.begun = b"", b"", False
        self.digest, self.epoch, self.state, self.slot_state = OLD, 1, "confirmed", "empty"
        self.serves = ["digits"]
        self.after_boot: list[str] = ["digits"]

    def __call__(self, operation: str, **given: Any) -> dict[str, Any]:
        self.calls.append(operation)
        self.trouble(self, operation)
        name = "list_pipelines" if operation == "pipelines" else operation.replace(".", "_")
        answer: dict[str, Any] = getattr(self, name)(**given)
        return answer

    def reset(self) -> None:
        """Start the firmware anew: what fills no block is lost, and that an update was begun."""
        self.buffer, self.begun = b"", False
        self.epoch += 1

    def fw_status(self) -> dict[str, Any]:
        slots = {
            "A": {"state": "confirmed", "digest": OLD},
            "B": {"state": self.slot_state, "digest": IMAGE.digest.hex()},
        }
        slot, version = ("A", "1") if self.digest == OLD else ("B", "2")
        facts = {"slot": slot, "version": version, "state": self.state, "reason": "CONFIRMED"}
        return {**facts, "detail": "so it is", "digest": self.digest, "epoch": self.epoch, "slots": slots}

    def fw_begin(self, size: int, digest: bytes) -> dict[str, Any]:
        assert (size, digest) == (len(DATA), IMAGE.digest)
        self.buffer, self.begun, self.slot_state = b"", True, "writing"
        return {"offset": len(self.flash), "part": PART}

    def fw_chunk(self, offset: int, data: bytes) -> dict[str, Any]:
        if not self.begun:
            raise BadArgumentError("no update was begun")
        if offset != len(self.flash) + len(self.buffer):
            raise BadArgumentError("not the next")
        assert len(data) <= PART
        self.buffer += data
        whole = len(self.buffer) // BLOCK * BLOCK if offset + len(data) < len(DATA) else len(self.buffer)
        self.flash, self.buffer = self.flash + self.buffer[:whole], self.buffer[whole:]
        return {"offset": len(self.flash) + len(self.buffer)}

    def fw_finish(self) -> dict[str, Any]:
        if not self.begun:
            raise BadArgumentError("no update was begun")
        if self.flash != DATA:
            self.slot_state = "bad"
            raise BadArgumentError("the signature is wrong")
        self.slot_state = "ready"
        return {}

    def fw_activate(self, digest: bytes, confirm: str) -> dict[str, Any]:
        assert (digest, confirm) == (IMAGE.digest, "host")
        self.reset()
        self.digest, self.state, self.serves = digest.hex(), "trying", self.after_boot
        return {"reboot": 1}

    def fw_confirm(self) -> dict[str, Any]:
        self.state = "confirmed"
        return {}

    def fw_rollback(self, leaving: bytes) -> dict[str, Any]:
        assert leaving.hex() == self.digest
        self.reset()
        self.digest, self.state = OLD, "confirmed"
        return {"reboot": 1}

    def list_pipelines(self) -> dict[str, Any]:
        return {"pipelines": [{"name": name} for name in self.serves]}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)


def test_an_image_is_sent_by_parts_booted_and_confirmed() -> None:
    appliance, seen = Appliance(), list[tuple[str, int, int]]()
    done = Upgrade(appliance, lambda *step: seen.append(step)).run(IMAGE)
    assert (done.before, done.after, done.changed, done.confirmed) == ("1", "2", True, True)
    assert (appliance.flash, appliance.state) == (DATA, "confirmed")
    assert [offset for what, offset, _ in seen if what == "sending"] == list(range(0, len(DATA), PART))
    assert [what for what, *_ in seen[-2:]] == ["verifying", "rebooting"]
    assert all(size == len(DATA) for *_, size in seen)


def test_the_same_again_changes_nothing() -> None:
    appliance = Appliance()
    Upgrade(appliance).run(IMAGE)
    appliance.calls.clear()
    assert Upgrade(appliance).run(IMAGE).changed is False
    assert appliance.calls == ["fw.status"]


@pytest.mark.parametrize("error", [NapuTimeoutError("lost"), UnavailableError("down")])
def test_a_link_that_fails_at_any_step_and_comes_back(error: Exception) -> None:
    count = len(_calls(Appliance()))
    assert count > 12
    for at in range(count):
        for reset in (False, True):

            def trouble(appliance: Appliance, _: str, at: int = at, reset: bool = reset) -> None:
                if len(appliance.calls) == at + 1:
                    if reset and appliance.state != "trying":
                        appliance.reset()
                    raise error

            appliance = Appliance(trouble)
            # A reboot of the old image between activate and boot is what the board's own tests are about.
            done = Upgrade(appliance).run(IMAGE)
            assert (done.after, appliance.flash, appliance.state) == ("2", DATA, "confirmed")


def _calls(appliance: Appliance) -> list[str]:
    Upgrade(appliance).run(IMAGE)
    return appliance.calls


def test_what_was_sent_is_not_sent_again_after_the_host_gave_up() -> None:
    def trouble(appliance: Appliance, operation: str) -> None:
        if operation == "fw.chunk" and len(appliance.flash) >= 3 * BLOCK:
            raise NapuTimeoutError("the cable is out")

    appliance = Appliance(trouble)
    with pytest.raises(NapuTimeoutError, match="the cable is out"):
        Upgrade(appliance, patience_s=0).run(IMAGE)
    sent = len(appliance.flash)
    assert sent >= 3 * BLOCK
    appliance.trouble = lambda *_: None
    offsets: list[int] = []
    done = Upgrade(appliance, lambda what, at, _: offsets.append(at) if what == "sending" else None).run(IMAGE)
    assert done.confirmed
    assert offsets[0] == sent


def test_an_image_that_is_refused_is_not_sent_twice() -> None:
    appliance = Appliance()
    appliance.flash = b"\0" * BLOCK  # of something else
    with pytest.raises(BadArgumentError, match="signature"):
        Upgrade(appliance).run(IMAGE)
    assert appliance.calls.count("fw.finish") == 1
    assert appliance.digest == OLD


def test_an_appliance_that_refuses_every_part_is_not_asked_for_ever() -> None:
    def trouble(_: Appliance, operation: str) -> None:
        if operation == "fw.chunk":
            raise BadArgumentError("no")

    appliance = Appliance(trouble)
    with pytest.raises(BadArgumentError, match="no"):
        Upgrade(appliance).run(IMAGE)
    assert appliance.calls.count("fw.begin") == 4


def test_an_image_that_serves_less_is_rolled_back() -> None:
    appliance = Appliance()
    appliance.after_boot = []
    with pytest.raises(DeviceError, match="version 2 served no longer: digits; 1 runs again"):
        Upgrade(appliance).run(IMAGE)
    assert (appliance.digest, appliance.state) == (OLD, "confirmed")


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("fw.status", {}),
        ("fw.status", {"slot": "A", "digest": "g" * 64}),
        ("fw.begin", {"offset": -1, "part": 1}),
        ("fw.begin", {"offset": len(DATA) + 1, "part": 1}),
        ("fw.begin", {"offset": 0, "part": 0}),
        ("fw.begin", {"offset": True, "part": 5}),
        ("fw.chunk", {"offset": 0}),
        ("fw.chunk", {"offset": 1 << 40}),
        ("fw.chunk", {}),
        ("pipelines", {"pipelines": "all"}),
        ("pipelines", {}),
    ],
)
def test_answers_that_are_none(operation: str, answer: dict[str, Any]) -> None:
    class Liar(Appliance):
        def __call__(self, asked: str, **given: Any) -> dict[str, Any]:
            return answer if asked == operation else super().__call__(asked, **given)

    with pytest.raises(RemoteProtocolError):
        Upgrade(Liar()).run(IMAGE)


@pytest.mark.parametrize("content", [b"", b"NAPU", b"#!/bin/sh\n"])
def test_files_that_are_no_images(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no firmware image"):
        FirmwareImage.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        FirmwareImage.read(tmp_path)
