"""Captures that tests leave behind when they fail, and the one command that shows what happened again.

A test asks for the fixture ``reproducer``, has its wires captured by it, and needs do nothing else: when it fails, its
captures and packages are copied to ``build/reproducers``, and its report ends with the command.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from host_sdk.capture.tapped import TappedLink
from host_sdk.wire.links.base import Link
from tests.rig.damaged import DamagedWire, damaged_wire
from tests.rig.nodes import ROOT

KEPT = ROOT / "build" / "reproducers"


class Reproducer:
    """What has to be kept of a test that fails.

    Args:
        name: The test's name.
        directory: Where captures are written while it runs.
        kept: Where they are copied to when it fails.
    """

    def __init__(self, name: str, directory: Path, kept: Path = KEPT) -> None:
        self._name = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
        self._directory, self._kept = directory, kept
        self._captures: list[tuple[Path, list[bytes]]] = []
        self._taps: list[TappedLink] = []

    def _new(self, packages: list[bytes]) -> Path:
        path = self._directory / f"capture-{len(self._captures)}.pcap"
        self._captures.append((path, packages))
        return path

    def tap(self, link: Link, packages: list[bytes]) -> TappedLink:
        """Return a link whose frames are captured; ``packages`` is what the appliance at its other end serves."""
        tapped = TappedLink(link, self._new(packages))
        self._taps.append(tapped)
        return tapped

    @contextmanager
    def wire(self, packages: list[bytes], faults: tuple[str, str] = ("", ""), seed: int = 1) -> Iterator[DamagedWire]:
        """Make a damaged wire, as :func:`tests.rig.damaged.damaged_wire` does, that is captured."""
        with damaged_wire(self._new(packages), packages, faults, seed) as made:
            self._taps.append(made.tap)
            yield made

    @property
    def captures(self) -> list[Path]:
        """The captures so far."""
        return [path for path, _ in self._captures]

    def leave(self) -> list[str]:
        """Copy everything to where it is kept; return the command for each capture."""
        for tap in self._taps:
            tap.flush()
        commands = []
        for number, (path, packages) in enumerate(self._captures):
            place = self._kept / f"{self._name}-{number}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            shutil.copy(path, place / "capture.pcap")
            command = f"napu replay {place / 'capture.pcap'} --virtual"
            for index, package in enumerate(packages):
                (place / f"{index}.napu").write_bytes(package)
                command += f" --package {place / f'{index}.napu'}"
            commands.append(command)
        return commands
