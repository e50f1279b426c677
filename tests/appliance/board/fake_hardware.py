"""Hardware without a dataplane, for tests of the board and of the firmware."""

import hashlib

import msgpack

from host_sdk.wire.errors import ConfigError


def package(name: str, size: int = 10) -> bytes:
    """Return a package that the fake hardware calls ``name``; refused and broken are special."""
    packed: bytes = msgpack.packb({"manifest": f'name = "{name}"', "files": {"model": bytes(size)}})
    return packed


class FakeHardware:
    """Keeps descriptions of pipelines; knows a package's name from its manifest's only line."""

    def __init__(self) -> None:
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

    def load_pipeline(self, package: bytes) -> dict[str, object]:
        name = msgpack.unpackb(package)["manifest"].split('"')[1]
        if name == "refused":
            raise ConfigError("this accelerator has no such operator; use another")
        if name == "broken":
            raise ZeroDivisionError("division by zero")
        self.loads.append(name)
        digest = hashlib.sha256(package).hexdigest()
        handle = len(self.loads)
        description: dict[str, object] = {
            "name": name, "handle": handle, "digest": digest, "input": {"bytes": 4}, "outputs": []
        }  # fmt: skip
        self.served[name] = description
        return description

    def unload_pipeline(self, name: str) -> bool:
        return self.served.pop(name, None) is not None

    def pipelines(self) -> list[dict[str, object]]:
        return list(self.served.values())
