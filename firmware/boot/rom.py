"""The boot ROM's last step: starts an image as a child process. Runs in the process of the hardware."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import host_sdk.wire
from firmware.boot.isolation import forbid_gains
from firmware.boot.user import NOBODY, User
from firmware.image.development import DEVELOPMENT_POLICY
from firmware.image.format import Image
from firmware.image.policy import Policy
from firmware.image.verify import verify_image
from host_sdk.wire.errors import DeviceError

_FIRST_STAGE = Path(__file__).with_name("first_stage.py")
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# Nothing of the node's environment reaches the firmware. One thread is plenty for what it does with numpy.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}


def boot(
    image_bytes: bytes,
    bus_fd: int,
    irq_fd: int,
    epoch: int,
    policy: Policy = DEVELOPMENT_POLICY,
    user: User = NOBODY,
) -> subprocess.Popen[bytes]:
    """Verify an image and start it, see :func:`start`.

    Args:
        image_bytes: The image as it is in flash.
        bus_fd: The firmware's end of the bus.
        irq_fd: The firmware's end of the interrupt line.
        epoch: Number of this boot.
        policy: What the board takes; by default what is signed with the published development keys, too.
        user: Whom the child becomes where this process is root.

    Returns:
        The process; the caller reads its ``stdout`` and waits for it.

    Raises:
        ImageError: The image is refused; one class for each cause.
        OSError: The system is out of something.
    """
    return start(verify_image(image_bytes, policy), bus_fd, irq_fd, epoch, user)


def start(image: Image, bus_fd: int, irq_fd: int, epoch: int, user: User = NOBODY) -> subprocess.Popen[bytes]:
    """Start an image that was verified.

    The firmware's own code comes from the image alone, out of sealed memory; ``host_sdk.wire`` and the board's
    register map come from this installation, like a library in ROM. The child has the bus, the interrupt line and
    the image open and nothing else, and :mod:`firmware.boot.isolation` shuts it in; its standard output and error go
    to a pipe, and it dies with the thread that called this function.

    Args:
        image: The image.
        bus_fd: The firmware's end of the bus.
        irq_fd: The firmware's end of the interrupt line.
        epoch: Number of this boot.
        user: Whom the child becomes where this process is root.

    Returns:
        The process; the caller reads its ``stdout`` and waits for it.

    Raises:
        OSError: The system is out of something.
    """
    memory = _sealed_memory(image, epoch)
    forbid_gains()
    try:
        return subprocess.Popen(
            [
                sys.executable,
                *("-I", "-X", "utf8", "-X", "faulthandler", str(_FIRST_STAGE)),
                *(str(os.getpid()), str(user.uid), str(user.gid), str(memory), str(_library()), image.entry),
                *(str(bus_fd), str(irq_fd), image.digest.hex()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(bus_fd, irq_fd, memory),
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
        )
    finally:
        os.close(memory)


def _sealed_memory(image: Image, epoch: int) -> int:
    descriptor = os.memfd_create(f"firmware-{epoch}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(image.payload)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _library() -> Path:
    if host_sdk.wire.__file__ is None:
        raise DeviceError("host_sdk.wire is not a regular package; install the project anew")
    return Path(host_sdk.wire.__file__).parents[2]
