"""Real nodes for tests: processes that serve over UDP on loopback."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host_sdk.client import NapuClient
from host_sdk.operations import Timeout

READY_S = 40.0  # for a node on a busy machine
STOP_S = 10.0
ROOT = Path(__file__).resolve().parents[2]
MODELS = Path(os.environ.get("NAPU_REFERENCE_MODELS") or ROOT.parent / "shared" / "models")
NO_MODELS = "only where the MLPerf Tiny reference models are: set NAPU_REFERENCE_MODELS to their directory"
TFLITE_PYTHON = ROOT / ".venv-tflite" / "bin" / "python"
REASSEMBLY_MS = 300  # so that tests need not wait for the profile's own


@dataclass(frozen=True)
class NodeProcess:
    """A running ``napu-node``.

    Attributes:
        process: The process; its firmware is a child of it.
        facts: What it announced when it began to serve.
        log: File with what it wrote to standard error.
        flash: Directory of its flash.
    """

    process: "subprocess.Popen[bytes]"
    facts: dict[str, Any]
    log: Path
    flash: Path

    @property
    def address(self) -> str:
        """Its UDP address, as people write it."""
        return str(self.facts["address"])

    @property
    def host_port(self) -> tuple[str, int]:
        """Its UDP address, as sockets take it."""
        host, port = self.address.split(":")
        return host, int(port)

    def client(self, **timeouts: float) -> NapuClient:
        """Return a client of this node alone, to be closed."""
        return NapuClient("udp:127.0.0.1:0", self.address, timeout=Timeout(**timeouts))

    def hardware(self) -> dict[str, int]:
        """Return the counters of its hardware."""
        with self.client() as client:
            return dict(client.stats()["hardware"])

    def firmware_pid(self) -> int:
        """Return the process id of its firmware."""
        with self.client() as client:
            return int(client.control("identity")["firmware"]["pid"])

    def resident_bytes(self) -> int:
        """Return the memory that the node's process has in use."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Return how many descriptors the node's process has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        """Return how many threads the node's process has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def cpu_ticks(self) -> int:
        """Return the processor time that the node's process has used, in clock ticks."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


def write_profile(path: Path, **limits: int) -> Path:
    """Write the shipped profile, with other limits, to a file that ``--profile`` takes."""
    text = (ROOT / "appliance" / "profiles" / "napu-s.toml").read_text()
    for name, value in limits.items():
        text, count = re.subn(rf"(?m)^{name} = \d+$", f"{name} = {value}", text)
        assert count == 1, f"the profile has no limit {name}"
    path.write_text(text)
    return path


@contextmanager
def node_process(
    directory: Path, *options: str, python: Path | str = sys.executable, link: str = "udp:127.0.0.1:0"
) -> Iterator[NodeProcess]:
    """Run a node in the caller's network namespace; it and its firmware are gone at the end.

    Args:
        directory: Where its flash and its log are kept; made if absent.
        options: More options of ``napu-node``.
        python: Interpreter to run it with.
        link: Its link, by default UDP on a free port of loopback.
    """
    directory.mkdir(parents=True, exist_ok=True)
    flash, log = directory / "flash", directory / "node.log"
    reader, writer = os.pipe()
    command = [str(python), "-m", "appliance.cli", "--flash", str(flash), "--link", link]
    if "--access" not in options:
        command += ["--access", "open"]
    with log.open("ab") as sink, os.fdopen(reader, "rb") as announced:
        process = subprocess.Popen(
            [*command, "--ready-fd", str(writer), *options], pass_fds=[writer], stdout=sink, stderr=sink, cwd=ROOT
        )
        os.close(writer)
        try:
            ready, _, _ = select.select([announced], (), (), READY_S)
            line = announced.readline() if ready else b""
            assert line, f"the node did not serve: {log.read_text()[-2000:]}"
            yield NodeProcess(process, json.loads(line), log, flash)
        finally:
            stop(process)


def stop(process: "subprocess.Popen[bytes]") -> int:
    """End a node as its user would, by force after a while; return its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Return whether a condition comes true within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
