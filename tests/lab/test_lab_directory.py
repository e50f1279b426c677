import os
from pathlib import Path

import pytest

from host_sdk.lab.directory import LabDirectory, base_directory, find_directories
from host_sdk.lab.process import ProcessIdentity
from host_sdk.lab.state import LabState, NodeState
from host_sdk.wire.errors import ConfigError


@pytest.fixture
def runtime(tmp_path: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(tmp_path)}


@pytest.fixture
def user() -> int:
    """Somebody who is not root, as far as the choice of the directory goes."""
    return os.geteuid()


def state(keeper: ProcessIdentity) -> LabState:
    return LabState(
        "bench", "up", keeper, 1500, "auto", "switch", (NodeState("host", "02:00:00:00:00:00", 1, "host.log"),), ()
    )


needs_user = pytest.mark.skipif(os.geteuid() == 0, reason="only where not root; the unprivileged test runs this")


@needs_user
def test_users_keep_labs_in_their_runtime_directory(tmp_path: Path, runtime: dict[str, str], user: int) -> None:
    base = base_directory(runtime, user)
    assert base == tmp_path / "napu"
    assert base.stat().st_mode & 0o777 == 0o700
    assert base_directory(runtime, user) == base


@needs_user
def test_a_symbolic_link_is_not_followed(tmp_path: Path, runtime: dict[str, str], user: int) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "napu").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not a directory of user"):
        base_directory(runtime, user)


@needs_user
def test_a_directory_open_to_others_is_refused(tmp_path: Path, runtime: dict[str, str], user: int) -> None:
    (tmp_path / "napu").mkdir()
    (tmp_path / "napu").chmod(0o755)
    with pytest.raises(ConfigError, match="remove it"):
        base_directory(runtime, user)


@pytest.mark.parametrize("value", ["", "relative/path", "/nonexistent/runtime"])
def test_an_odd_runtime_directory_is_not_used(value: str) -> None:
    base = base_directory({"XDG_RUNTIME_DIR": value}, os.geteuid())
    assert base in (Path("/run/napu"), Path(f"/tmp/napu-{os.geteuid()}"))
    assert base.stat().st_mode & 0o777 == 0o700


def test_a_claimed_directory_cannot_be_claimed_again(tmp_path: Path) -> None:
    directory = LabDirectory(tmp_path / "bench")
    lock = directory.claim()
    try:
        directory.write_state(state(ProcessIdentity.of(os.getpid())))
        with pytest.raises(ConfigError, match=f"keeper {os.getpid()}.*napu lab down --name bench"):
            LabDirectory(tmp_path / "bench").claim()
        assert directory.is_live()
        assert [found.name for found in find_directories(tmp_path)] == ["bench"]
    finally:
        os.close(lock)


def test_a_claim_without_a_keeper_gives_up_in_the_end(tmp_path: Path) -> None:
    directory = LabDirectory(tmp_path / "bench")
    lock = directory.claim()
    try:
        with pytest.raises(ConfigError, match="being started or ended"):
            LabDirectory(tmp_path / "bench").claim()
    finally:
        os.close(lock)


def test_what_a_dead_lab_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    directory = LabDirectory(tmp_path / "bench")
    os.close(directory.claim())
    # The keeper's number is in use again, by a process that even runs: the lock says that the lab is gone.
    directory.write_state(state(ProcessIdentity.of(os.getpid())))
    directory.flash("n1").mkdir(parents=True)
    (directory.flash("n1") / "slot0").write_bytes(b"old")
    os.close(directory.claim())
    assert list(directory.path.iterdir()) == []


def test_what_a_dead_lab_left_is_removed_by_a_look(tmp_path: Path) -> None:
    directory = LabDirectory(tmp_path / "bench")
    os.close(directory.claim())
    directory.write_state(state(ProcessIdentity.of(os.getpid())))
    assert find_directories(tmp_path) == []
    assert not directory.path.exists()


def test_state_is_read_back(tmp_path: Path) -> None:
    directory = LabDirectory(tmp_path)
    assert directory.read_state() is None
    ended = NodeState("n1", "02:00:00:00:00:01", 7, "n1.log", "flash", -9, {"mtu": 1500}, "killed", "ended", ("x", "y"))
    written = LabState("bench", "starting", ProcessIdentity(5, 99), 3400, "xdp", "direct", (ended,), (ended, ended))
    directory.write_state(written)
    assert directory.read_state() == written
    directory.write_state(LabState("bench", "up", None, 1500, "auto", "switch", (ended,), (), "docker"))
    assert (directory.read_state() or written).keeper is None


def test_a_number_used_again_is_another_process() -> None:
    me = ProcessIdentity.of(os.getpid())
    assert me.runs()
    assert not ProcessIdentity(me.pid, me.started + 1).runs()
    with ProcessIdentity(me.pid, me.started + 1).opened() as descriptor:
        assert descriptor is None


def test_a_process_that_has_ended_does_not_run() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessLookupError):
        ProcessIdentity.of(child)  # not even while it waits to be reaped
    os.waitpid(child, 0)
    with pytest.raises(ProcessLookupError):
        ProcessIdentity.of(child)
