"""What a hostile image can do: nothing, and the node goes on serving."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from appliance.board.flash import Flash
from firmware.boot import isolation
from firmware.boot.user import NOBODY, User, find_user
from firmware.image import IMAGE_OBJECT, build_image
from firmware.image.build import SOURCES
from host_sdk.attestation import new_nonce
from host_sdk.cli.demo_images import held_out
from host_sdk.wire.attest.evidence import check_evidence
from host_sdk.wire.errors import ConfigError
from tests.rig.netns import run_unprivileged
from tests.rig.nodes import ROOT, node_process

HOSTILE = Path(__file__).with_name("hostile_main.py")
UNREACHABLE = isolation._first_closed(os.path.realpath(sys.executable), NOBODY)


def hostile_image(directory: Path, targets: dict[str, str]) -> bytes:
    """Return an image that runs hostile_main.py before the real firmware."""
    sources = directory / "sources"
    shutil.copytree(SOURCES, sources)
    (sources / "main.py").rename(sources / "real_main.py")
    code = HOSTILE.read_text()
    marker = "TARGETS: dict[str, str] = {}"
    assert code.count(marker) == 1
    (sources / "main.py").write_text(code.replace(marker, f"TARGETS = {targets!r}"))
    return build_image("6.6.6", sources)


def scenario(directory: Path) -> None:
    """Run a node with the hostile image and look at what came of it."""
    escape = directory / "escape"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        udp.bind(("127.0.0.1", 0))
        name = f"napu-isolation-{os.getpid()}"
        abstract.bind("\0" + name)
        abstract.listen()
        targets = {
            "flash": str(directory / "node" / "flash" / "NOR"),
            "file": str(escape),
            "tcp": str(tcp.getsockname()[1]),
            "udp": str(udp.getsockname()[1]),
            "abstract": name,
        }
        flash = directory / "node" / "flash"
        flash.mkdir(parents=True)
        Flash(flash, 64 << 20).write(IMAGE_OBJECT, hostile_image(directory, targets))
        with node_process(directory / "node") as node, node.client() as client:
            identity = client.control("identity")
            assert identity["firmware"]["version"] == "6.6.6"
            assert identity["firmware"]["epoch"] == 1  # it did not die of any attempt
            nonce = new_nonce()
            claims = check_evidence(client.attest(nonce=nonce), nonce)
            assert claims.image.facts["version"] == "6.6.6"  # it could not help saying who it is
            assert claims.image.digest.hex() == identity["firmware"]["digest"]
            assert [pipeline.name for pipeline in claims.pipelines] == ["digits"]
            texts = [str(line["text"]) for line in client.control("logs")["lines"]]
            (item,) = held_out(1)
            assert client.infer("digits", item.jpeg).label == item.label
        check(texts, received(udp))
    assert not escape.exists()
    assert not Path("/dev/shm/napu-escape").exists()


def check(texts: list[str], received: bool) -> None:
    """See that each attempt was refused, or that the console named what could not be closed."""
    outcomes = dict(text.removeprefix("attempt ").rsplit(": ", 1) for text in texts if text.startswith("attempt "))
    assert len(outcomes) == HOSTILE.read_text().split("ATTEMPTS:")[1].split("\n}")[0].count('": ')
    told = {text.removeprefix("isolation: ").partition(" not closed")[0] for text in texts if "not closed" in text}
    escaped = {name for name, outcome in outcomes.items() if not outcome.startswith("refused")}
    assert {name for name in escaped if name.partition(":")[0] not in told} == set(), texts
    assert not received or "network" in told


def received(udp: socket.socket) -> bool:
    udp.setblocking(False)
    try:
        return bool(udp.recv(100))
    except BlockingIOError:
        return False


def test_a_hostile_image_gets_nowhere(tmp_path: Path) -> None:
    scenario(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only where root; for an ordinary user the test before is this one")
@pytest.mark.skipif(bool(UNREACHABLE), reason=f"only where users can run Python, which is below {UNREACHABLE}")
def test_a_hostile_image_gets_nowhere_on_a_node_without_privileges() -> None:
    def body() -> None:
        with tempfile.TemporaryDirectory() as directory:
            scenario(Path(directory))

    run_unprivileged(body, namespaces=False, timeout_s=90)


REFUSED = """
import ctypes, os, resource, sys
from firmware.boot import isolation, landlock
from firmware.boot.user import NOBODY

def refuse(*_):
    raise PermissionError(1, "Operation not permitted")

landlock._call = isolation._leave_network = refuse
lines = []
isolation.isolate(NOBODY, [os.path.dirname(os.__file__)], lines.append)
print("\\n".join(lines))
print("limits", [resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC)])
print("no_new_privs", ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))
"""


def test_what_cannot_be_had_is_told_by_name_and_the_rest_holds() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, cwd=ROOT, check=True)
    lines = done.stdout.splitlines()
    assert "isolation: network not closed: Operation not permitted" in lines
    assert "isolation: file system not closed: Operation not permitted" in lines
    assert lines[-2:] == ["limits [0, 0]", "no_new_privs 1"]


def test_a_path_below_a_closed_directory_is_known(tmp_path: Path) -> None:
    stranger = User(12345, 12345)
    (tmp_path / "closed" / "place").mkdir(parents=True)
    tmp_path.chmod(0o755)
    (tmp_path / "closed").chmod(0o750)
    mine = User(os.getuid(), os.getgid())
    assert not isolation._may(str(tmp_path / "closed"), stranger, 1)
    assert isolation._may(str(tmp_path / "closed"), mine, 1)
    assert isolation._may(str(tmp_path), stranger, 5)
    assert isolation._first_closed(str(tmp_path / "closed" / "place"), stranger)


@pytest.mark.parametrize(
    ("text", "user"), [("65534:65534", (65534, 65534)), ("1000:7", (1000, 7)), ("4294967294:1", (4294967294, 1))]
)
def test_users_by_number(text: str, user: tuple[int, int]) -> None:
    assert find_user(text) == user


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("root", "must not run as root"),
        ("0:5", "must not run as root"),
        ("5:0", "in root's group"),
        ("", "no user is called ''"),
        ("no-such-user", "no user is called 'no-such-user'"),
        ("4294967295:1", "no user is called"),
        ("9" * 5000 + ":1", "no user is called"),
        ("-1:1", "no user is called"),
        ("1:", "no user is called"),
        ("\0", "no user is called"),
    ],
)
def test_who_is_no_user_for_the_firmware(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_user(text)
