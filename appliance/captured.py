"""A node's capture: its options, and what it says of the node."""

import argparse
import logging
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.device import Device
from host_sdk.wire.attest.boots import BootedImage
from host_sdk.wire.links.base import Link

if TYPE_CHECKING:  # a node without a capture can do without
    from host_sdk.capture.node import NodeCapture

DEFAULT_SIZE = 1 << 30  # bytes of a capture: a node that runs for weeks shall not fill its disk
_log = logging.getLogger("napu-node")


def add_capture_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a capture to those of a node."""
    option = parser.add_argument
    option("--capture", type=Path, metavar="FILE", help="write what passes the node's taps to this file, pcapng")
    option("--taps", default="in,classified,dla,out", help="of the capture: a list of in, classified, dla, out (all)")
    option("--capture-snap", type=int, default=0, metavar="BYTES", help="that it keeps of a frame; 0 keeps all (0)")
    ring = "of a ring; the oldest makes room for the next (1)"
    option("--capture-files", type=int, default=1, metavar="N", help=f"files {ring}")
    option("--capture-size", type=int, default=DEFAULT_SIZE, metavar="BYTES", help=f"of a file ({DEFAULT_SIZE})")


def captured(link: Link, arguments: argparse.Namespace) -> "tuple[Link, NodeCapture]":
    """Return a link that shows its frames to a capture, and the capture.

    Raises:
        ConfigError: The capture's arguments are wrong, or its file cannot be written.
    """
    from host_sdk.capture.node import CapturedLink, NodeCapture, parse_taps
    from host_sdk.capture.writer import Target

    sizes = arguments.capture_files, arguments.capture_size, arguments.capture_snap
    target = Target(arguments.capture, *sizes, private=True)
    name = arguments.name or link.format_address(link.address)
    capture = NodeCapture(target, link, name, parse_taps(arguments.taps), time.time_ns)
    _log.warning("frames are captured, those in the clear that came sealed: %s", arguments.capture)
    return CapturedLink(link, capture), capture


def tell_capture(
    capture: "NodeCapture | None",
    device: Device,
    facts: dict[str, str],
    booted: Callable[[], BootedImage | None],
    seeds: dict[str, int],
) -> None:
    """Tell a capture, if there is one, of its node: what it is, how it is set up, what runs on it, its counters."""
    if capture is None:
        return
    image, node = booted(), device.facts()
    capture.describe(
        {
            "node": node,
            "configuration": facts,
            "firmware": {**image.facts(), "digest": image.digest.hex()} if image else None,
            "pipelines": device.pipelines(),
            "seeds": seeds,
            "counters": device.counters(),
            "udp_ports": [int(str(node["address"]).rpartition(":")[2])] if node["link"] == "udp" else [],
            "versions": {"napu": version("napu"), "python": platform.python_version(), "kernel": platform.release()},
        }
    )
