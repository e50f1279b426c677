"""A node whose flash lies on a medium that is full: it says so by name, writes nothing by half, and serves on."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_sdk.wire.errors import NoSpaceError
from tests.rig.nodes import NodeProcess, node_process, stop
from tests.rig.packages import held_out, tensor_package
from tests.rig.wires import needs_root

pytestmark = needs_root
SIZE = 8 << 20  # of the medium: the chip with its three images takes 3.2 MB of it


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Path]:
    """A directory for a node whose flash is a small file system of its own."""
    (tmp_path / "flash").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", tmp_path / "flash"], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path / "flash"], check=True)


def objects(node: NodeProcess) -> dict[str, bytes]:
    """Return the files of a node's flash but for the chip, the fuses, and the ballast."""
    files = (path for path in node.flash.rglob("*") if path.is_file() and not path.name.isupper())
    return {path.relative_to(node.flash).as_posix(): path.read_bytes() for path in files}


def fill(flash: Path, leave: int) -> Path:
    """Fill the medium up, but for some bytes, with a file that no object can be named like; return the file."""
    ballast, room = flash / "BALLAST", os.statvfs(flash)
    with ballast.open("ab") as file:
        file.write(bytes(room.f_bavail * room.f_frsize - leave))
    return ballast


def test_a_full_medium(medium: Path) -> None:
    label, jpeg = held_out()[0]
    small = tensor_package("small")
    with node_process(medium) as node, node.client() as client:
        ballast = fill(node.flash, 4096 * (1 + len(small) // 8192))  # half of what it needs
        before = objects(node)
        with pytest.raises(NoSpaceError, match=r"the medium that holds the flash is full.*make room"):
            client.control("pipeline.install", package=small)
        assert objects(node) == before
        assert {pipeline.name for pipeline in client.pipelines()} == {"digits"}
        assert client.infer("digits", jpeg).label == label
        assert stop(node.process) == 0
        fill(node.flash, 0)
    with node_process(medium) as node, node.client() as client:  # boots with nothing free at all
        assert client.infer("digits", jpeg).label == label
        lines = [line["text"] for line in client.control("logs")["lines"]]
        assert any("the epoch cannot be kept over a loss of power: " in line for line in lines)
        ballast.unlink()
        client.control("pipeline.install", package=small)
        assert {pipeline.name for pipeline in client.pipelines()} == {"digits", "small"}
        kept = objects(node)
        assert not [name for name in kept if name.endswith("~")]
    with node_process(medium) as node, node.client() as client:
        assert {pipeline.name for pipeline in client.pipelines()} == {"digits", "small"}


def test_a_medium_too_small_for_a_node(tmp_path: Path) -> None:
    (tmp_path / "flash").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path / "flash"], check=True)
    try:
        with pytest.raises(AssertionError, match="No space left on device"), node_process(tmp_path):
            pass
    finally:
        subprocess.run(["umount", tmp_path / "flash"], check=True)
