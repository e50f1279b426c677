"""The first stage: what the boot ROM runs in the child before the firmware, by its path and not as a module.

It ties the child's life to the node's, arranges where code comes from, and calls the image's entry.
"""

import ctypes
import importlib
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Start the image; the arguments are what :func:`firmware.boot.rom.boot` passes."""
    parent, image, library, entry, *arguments = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != int(parent):
        sys.exit("the node ended before its firmware began")
    # The image comes first: nothing in the installation can stand in for a module of the firmware.
    sys.path[:0] = [f"/proc/self/fd/{image}", library]
    module, _, function = entry.partition(":")
    sys.exit(getattr(importlib.import_module(module), function)(arguments))


if __name__ == "__main__":
    main()
