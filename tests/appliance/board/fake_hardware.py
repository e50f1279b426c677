"""Hardware without a dataplane, for tests of the board and of the firmware."""

import hashlib
from typing import NoReturn

import msgpack

from appliance.board.sensors import ThermalModel
from firmware.version import VERSION
from host_sdk.wire.errors import ConfigError, DeviceError


def package(name: str, size: int = 10) -> bytes:
    """Return a package that the fake hardware calls ``name``; refused and broken are special."""
    packed: bytes = msgpack.packb({"manifest": f'name = "{name}"', "files": {"model": bytes(size)}})
    return packed


class FakeHardware:
    """Keeps descriptions of pipelines; knows a package's name from its manifest's only line."""

    def __init__(self) -> None:
        self.energy = 0
        self.rates: list[int] = []
        self.loads: list[str] = []
        self.served: dict[str, dict[str, object]] = {}

    def facts(self) -> dict[str, object]:
        return {
            "device": "4e41505500000001",
            "name": "fake",
            "address": "02:00:00:00:00:01",
            "profile": "napu-s",
            "link": "memory",
            "mtu": 1500,
            "credits": 32,
        }

    def counters(self) -> dict[str, int]:
        return {"frames": 12}

    def thermal(self) -> ThermalModel:
        return ThermalModel(
            ambient_c=20.0,
            resistance_k_per_w=10.0,
            capacity_j_per_k=6.0,
            idle_w=1.0,
            parts_w=1.0,
            dla_w=8.0,
            limit_c=90.0,
            resume_c=60.0,
            throttled_percent=25,
        )

    def energy_nj(self) -> int:
        return self.energy

    def set_dla_rate(self, percent: int) -> None:
        self.rates.append(percent)

    def load_pipeline(self, package: bytes) -> dict[str, object]:
        name = msgpack.unpackb(package)["manifest"].split('"')[1]
        if name == "refused":
            raise ConfigError("this accelerator has no such operator; use another")
        if name == "broken":
            raise ZeroDivisionError("division by zero")
        self.loads.append(name)
        digest = hashlib.sha256(package).hexdigest()
        model = hashlib.sha256(name.encode()).hexdigest()
        handle = len(self.loads)
        description: dict[str, object] = {
            "name": name, "handle": handle, "digest": digest, "model_sha256": model,
            "input": {"kind": "tensor", "max_bytes": 4}, "outputs": [], "sealed": False,
        }  # fmt: skip
        self.served[name] = description
        return description

    def unload_pipeline(self, name: str) -> bool:
        return self.served.pop(name, None) is not None

    def pipelines(self) -> list[dict[str, object]]:
        return list(self.served.values())


class FakeSlots:
    """A boot ROM that has booted a confirmed image, and refuses everything else."""

    remark = ""
    deadline_ns = None
    trial_ms = 0

    def expire(self) -> str:
        return ""

    def status(self) -> dict[str, object]:
        booted = {"slot": "A", "version": VERSION, "state": "confirmed", "reason": "CONFIRMED", "detail": ""}
        return {**booted, "trial_ms": 0, "active": "A", "slots": {}}

    def _refuse(self, *_: object) -> NoReturn:
        raise DeviceError("this board has no slots")

    begin = write = finish = activate = roll_back = _refuse

    def confirm(self) -> None:
        pass
