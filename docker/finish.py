"""Finish the environment of the image: capability, launchers, bytecode, and nothing that only developers need.

Run in the build stage: ``python finish.py ENVIRONMENT LAUNCHER``. Standard library only.
"""

import compileall
import os
import shutil
import struct
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

CAP_NET_RAW = 13
VFS_CAP_REVISION_2 = 0x02000000
VFS_CAP_EFFECTIVE = 0x1
COMMANDS = ("napu", "napu-node", "napu-node-health", "napu-fw")
# What packages carry for their own developers, what extensions are compiled against, and LiteRT's ways to accelerators
# that this appliance does not have: 32 MB of its 59.
UNUSED = (
    *("**/tests", "numpy/**/include", "numpy/f2py", "**/*.pyi", "**/*.pxd", "**/*.a", "**/*.h"),
    *("ai_edge_litert/libLiteRtWebGpuAccelerator.so", "ai_edge_litert/tools", "ai_edge_litert/vendors"),
)


def main(environment: Path, launcher: Path) -> None:
    """Finish an environment in place."""
    packages = next(environment.glob("lib/python3.*/site-packages"))
    for pattern in UNUSED:
        for path in sorted(packages.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    for path in (environment / "bin").iterdir():
        if path.name not in ("python", *COMMANDS):
            path.unlink()
        if path.name.startswith("python3"):
            path.symlink_to("python")
    grant_net_raw(environment / "bin" / "python", environment / "bin" / "python-net-raw")
    commands = environment / "commands"
    commands.mkdir()
    shutil.copy(launcher, commands / launcher.name)
    for command in ("python", *COMMANDS):
        (commands / command).symlink_to(launcher.name)
    # Nothing can be written in the read-only container, so an interpreter without bytecode would compile at each start.
    compileall.compile_dir(packages, quiet=1, workers=0, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)


def grant_net_raw(interpreter: Path, copy: Path) -> None:
    """Copy an interpreter and give the copy CAP_NET_RAW, permitted and effective: a struct vfs_cap_data."""
    shutil.copy(interpreter, copy)
    value = struct.pack("<IIIII", VFS_CAP_REVISION_2 | VFS_CAP_EFFECTIVE, 1 << CAP_NET_RAW, 0, 0, 0)
    os.setxattr(copy, "security.capability", value)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
