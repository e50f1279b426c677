"""Who this appliance is."""

import os
from typing import Any

from firmware.hal import Hal
from firmware.services.access import access_mode
from firmware.version import VERSION
from host_sdk.wire.schema import VERSION as PROTOCOL


class Identity:
    """Answers with what the device is, what firmware runs on it, and what it serves.

    Args:
        hal: The hardware.
        digest: SHA-256 of the image that was booted, in hex.
    """

    def __init__(self, hal: Hal, digest: str) -> None:
        self._hal = hal
        self._constant = {
            "protocol": PROTOCOL,
            "access": access_mode(hal),
            "firmware": {"version": VERSION, "digest": digest, "epoch": hal.epoch(), "pid": os.getpid()},
        }

    def describe(self) -> dict[str, Any]:
        """Return the map of ANNOUNCE: device, name, address, profile, link, mtu, credits, access and so on."""
        served = [
            {
                **{key: pipeline[key] for key in ("name", "handle", "digest", "sealed")},
                "input_bytes": pipeline["input"]["max_bytes"] if pipeline["input"]["kind"] == "tensor" else 0,
            }
            for pipeline in self._hal.pipelines()
        ]
        counters = {name: count for name, count in self._hal.counters().items() if count and _of_discovery(name)}
        # Asked for anew each time, as the address changes when the interface is replaced under a link that follows it.
        return {**self._hal.facts(), **self._constant, "pipelines": served, "counters": counters}


def _of_discovery(name: str) -> bool:
    """Return whether a counter is told to whoever asks who is there: frames and answers by what became of them."""
    return name.startswith(("frames_", "answers_", "link_rx_", "link_tx_", "rx_frames", "tx_dropped"))
