"""The first stage: what the boot ROM runs in the child before the firmware, by its path and not as a module.

It arranges where code comes from, shuts the process in, ties its life to the node's, and calls the image's entry.
"""

import ctypes
import importlib
import os
import signal
import sys
from types import ModuleType

_PR_SET_PDEATHSIG = 1
_ROM = ("host_sdk.wire", "appliance.board.regmap")  # what the firmware uses of the installation


def main() -> None:
    """Start the image; the arguments are what :func:`firmware.boot.rom.boot` passes."""
    parent, uid, gid, image, library, entry, *arguments = sys.argv[1:]
    # Before the image can be imported from: what runs until the process is shut in is the installation's own.
    sys.path.insert(0, library)
    rom = [importlib.import_module(name) for name in _ROM]
    wire = next(iter(rom[0].__path__))
    places = [path for path in (*sys.path[1:], wire) if os.path.isdir(path)]  # noqa: PTH112 - pathlib costs 5 ms
    _shut_in((int(uid), int(gid)), places)
    # After the change of user, which takes it back.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != int(parent):
        sys.exit("the node ended before its firmware began")
    # The image comes first: nothing in the installation can stand in for a module of the firmware.
    sys.path.insert(0, f"/proc/self/fd/{image}")
    module, _, function = entry.partition(":")
    sys.exit(getattr(importlib.import_module(module), function)(arguments))


def _shut_in(ids: tuple[int, int], places: list[str]) -> None:
    # The siblings of this file, under a name of their own: the package firmware is the image's.
    package = ModuleType("boot")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]  # noqa: PTH100, PTH120 - pathlib costs 5 ms
    sys.modules["boot"] = package
    isolation, user = (importlib.import_module(f"boot.{name}") for name in ("isolation", "user"))
    isolation.isolate(user.User(*ids), places, lambda sentence: sys.stderr.write(sentence + "\n"))


if __name__ == "__main__":
    main()
