"""The set-up script: what it decides, and whole runs on a tiny project with wheels of its own, no network."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load_make_venv() -> Any:
    """Return the script as a module; `.ci` is no package."""
    spec = importlib.util.spec_from_file_location("make_venv", ROOT / ".ci" / "make_venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    handler = signal.getsignal(signal.SIGINT)
    spec.loader.exec_module(module)
    signal.signal(signal.SIGINT, handler)  # the script changes it, and is alone in its own process
    return module


make_venv = load_make_venv()

# Builds the editable wheel of the tiny project, so that no build tool has to be installed for it.
BACKEND = """
import zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        wheel.writestr("tiny.pth", "")
        wheel.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n")
        wheel.writestr("tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("tiny-1.dist-info/RECORD", "")
    return name
"""
# Says where its temporary files would go, and does not end by itself.
SLOW_BACKEND = """
import os, tempfile, time
def build_editable(folder, config_settings=None, metadata_directory=None):
    with open("started.new", "w") as file:
        file.write(tempfile.gettempdir())
    os.rename("started.new", "started")
    time.sleep(60)
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny"
version = "1"
"""


def write_wheel(folder: Path, name: str) -> str:
    """Write a wheel holding one module `name` and return its line for a lock file."""
    path = folder / f"{name}-1-py3-none-any.whl"
    info = f"{name}-1.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        f"{info}/RECORD": f"{name}.py,,\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
    return f"{name}==1 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def write_project(root: Path) -> Any:
    """Write a project of one locked package at `root` and return its main environment, not made yet."""
    (root / ".ci").mkdir(parents=True)
    for script in ("setup", "make_venv.py"):
        shutil.copy(ROOT / ".ci" / script, root / ".ci" / script)
    (root / "wheels").mkdir()
    (root / ".ci" / "requirements.lock").write_text(write_wheel(root / "wheels", "alpha"))
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    return make_venv.environment(root, None)


def start_setup(root: Path, **environ: str) -> subprocess.Popen[str]:
    """Start `.ci/setup` in the project at `root`, in an otherwise empty environment and a process group of its own."""
    variables = {
        "PATH": os.defpath,
        "HOME": str(root),
        "PYTHON": sys.executable,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": (root / "wheels").as_uri(),
    }
    return subprocess.Popen(
        [root / ".ci" / "setup"], env=variables | environ, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def run_setup(root: Path, **environ: str) -> tuple[int, str]:
    """Run `.ci/setup` to its end; return its exit status and what it said."""
    with start_setup(root, **environ) as process:
        _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.fixture(scope="module")
def base_with_pip() -> None:
    """Skip where pip would have to be downloaded for a new environment; in CI there is no excuse."""
    command = [make_venv.base_python(), "-I", "-c"]
    found = [
        subprocess.run([*command, f"import {module}"], check=False, capture_output=True).returncode
        for module in ("ensurepip.__main__", "pip")
    ]
    if all(found) and os.environ.get("CI") != "true":
        pytest.skip("this Python has neither ensurepip nor pip; Debian has them in python3-venv")


@pytest.fixture(scope="module")
def made(base_with_pip: None, tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ARG001 - may skip
    """An environment made by two setups at once, in a path with a space."""
    env = write_project(tmp_path_factory.mktemp("set up") / "a project")
    with start_setup(env.root) as one, start_setup(env.root) as other:
        said = one.communicate(timeout=60)[1] + other.communicate(timeout=60)[1]
    assert (one.returncode, other.returncode) == (0, 0), said
    assert said.count("making it with Python") == 1, said
    return env


def test_made_environment_holds_the_lock_and_the_project_and_is_left_alone(made: Any) -> None:
    stamp = (made.path / make_venv.STAMP).read_text()
    assert {"alpha==1", "tiny==1"} <= set(json.loads(stamp)["packages"])
    assert run_setup(made.root) == (0, "")
    assert (made.path / make_venv.STAMP).read_text() == stamp


@pytest.mark.parametrize("file", [".ci/requirements.lock", "pyproject.toml"])
def test_changed_input_outdates_the_environment(made: Any, file: str) -> None:
    path = made.root / file
    before = path.read_text()
    assert make_venv.is_current(made, None)
    path.write_text(before + "# changed\n")
    assert not make_venv.is_current(made, None)
    path.write_text(before)
    assert make_venv.is_current(made, None)


def test_another_python_outdates_the_environment_only_if_asked_for(made: Any) -> None:
    assert make_venv.is_current(made, sys.version)
    assert not make_venv.is_current(made, "3.99.0 (another build)")


def test_moved_tree_outdates_the_environment(made: Any, tmp_path: Path) -> None:
    shutil.copytree(made.root, tmp_path / "moved", symlinks=True)
    assert not make_venv.is_current(make_venv.environment(tmp_path / "moved", None), None)


def test_half_written_stamp_counts_as_none(made: Any) -> None:
    path = made.path / make_venv.STAMP
    before = path.read_text()
    path.write_text(before[: len(before) // 2])
    assert not make_venv.is_current(made, None)
    path.write_text(before)


def test_damage_is_repaired_whatever_the_caller_has_in_its_environment(made: Any, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    module = next(made.path.glob("lib/python3*/site-packages/alpha.py"))
    module.unlink()
    misleading = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nonexistent", "VIRTUAL_ENV": "/nonexistent"}
    misleading |= {"PIP_TARGET": str(tmp_path / "target"), "PIP_USER": "1", "PIP_REQUIRE_VIRTUALENV": "1"}
    code, said = run_setup(made.root, **misleading)
    assert code == 0, said
    assert module.exists()
    assert not (tmp_path / "target").exists()


@pytest.mark.usefixtures("base_with_pip")
def test_tampered_wheel_is_refused_and_leaves_no_stamp(tmp_path: Path) -> None:
    env = write_project(tmp_path)
    with zipfile.ZipFile(next((tmp_path / "wheels").iterdir()), "a") as wheel:
        wheel.writestr("more.py", "")
    code, said = run_setup(tmp_path)
    assert code == 1
    assert "DO NOT MATCH THE HASHES" in said
    assert "PIP_INDEX_URL" in said
    assert not (env.path / make_venv.STAMP).exists()


@pytest.mark.usefixtures("base_with_pip")
def test_interrupted_set_up_leaves_no_temporary_files_elsewhere_and_runs_again(tmp_path: Path) -> None:
    env = write_project(tmp_path / "project")
    (tmp_path / "elsewhere").mkdir()
    (env.root / "backend.py").write_text(SLOW_BACKEND)
    with start_setup(env.root, TMPDIR=str(tmp_path / "elsewhere")) as process:
        started = env.root / "started"
        end = time.monotonic() + 60
        while not started.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert said.endswith("setup: interrupted; the next setup starts afresh\n")
    assert Path(started.read_text()).is_relative_to(env.path)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert not (env.path / make_venv.STAMP).exists()
    (env.root / "backend.py").write_text(BACKEND)
    code, said = run_setup(env.root)
    assert code == 0, said
    assert not env.temporary.exists()


def test_unwritable_tree_says_who_should_run_it(tmp_path: Path) -> None:
    (tmp_path / ".setup.lock").mkdir()  # even root cannot open it for writing
    with pytest.raises(make_venv.SetupError, match="owner of this tree"), make_venv.exclusive(tmp_path):
        pass


def test_tflite_runtime_is_left_out_from_python_3_12_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_venv.main(["tflite-runtime"], tmp_path, (3, 12, 0)) == 0
    assert re.fullmatch(r"setup: .venv-tflite left out: .* Python 3\.12\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_the_fuzzer_is_left_out_where_it_has_no_wheels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_venv.main(["fuzz"], tmp_path, (3, 15, 0)) == 0
    assert capsys.readouterr().err == "setup: .venv-fuzz left out: atheris has no wheels for Python 3.15\n"
    assert not list(tmp_path.iterdir())
    fuzz = make_venv.environment(tmp_path, "fuzz")
    assert fuzz.lacks_wheels_for((3, 14, 2), "Linux aarch64") == "Linux aarch64"
    assert fuzz.lacks_wheels_for((3, 14, 2), "Linux x86_64") == ""


def test_unknown_environment_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_venv.main(["tflite"], tmp_path, (3, 11, 0)) == 1
    assert "no environment 'tflite'; usage" in capsys.readouterr().err


def test_index_settings_survive_and_what_redirects_an_install_does_not() -> None:
    given = {"PIP_INDEX_URL": "https://index.test", "PIP_CONSTRAINT": "c.txt", "PYTHONPATH": "x", "LANG": "C"}
    cleaned = make_venv.clean_environ(given)
    assert cleaned.items() >= {("PIP_INDEX_URL", "https://index.test"), ("LANG", "C"), ("PIP_USER", "0")}
    assert cleaned.keys().isdisjoint({"PIP_CONSTRAINT", "PYTHONPATH"})


# Finding a Python ---------------------------------------------------------------------------------------


@pytest.fixture
def bin_directory(tmp_path: Path) -> Path:
    """A directory for PATH with nothing but what `.ci/setup` itself calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    dirname = shutil.which("dirname")
    assert dirname is not None
    (folder / "dirname").symlink_to(dirname)
    return folder


def add_script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def find_python(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / ".ci" / "setup", *arguments],
        env={"PATH": str(folder), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_too_old_and_broken_pythons_are_passed_over(bin_directory: Path) -> None:
    add_script(bin_directory, "python3", "exit 1")
    add_script(bin_directory, "python3.13", "echo 'python3.13: command not found'; exit 127")
    add_script(bin_directory, "python3.12", 'case "$2" in -c) exit 0 ;; *) echo "$0 $*" ;; esac')
    done = find_python(bin_directory)
    assert done.returncode == 0
    assert done.stdout == f"{bin_directory}/python3.12 -I {ROOT}/.ci/make_venv.py\n"


def test_tflite_runtime_prefers_python_3_11(bin_directory: Path) -> None:
    for name in ("python3", "python3.11"):
        add_script(bin_directory, name, 'case "$2" in -c) exit 0 ;; *) echo "$0 $*" ;; esac')
    done = find_python(bin_directory, "tflite-runtime")
    assert done.stdout == f"{bin_directory}/python3.11 -I {ROOT}/.ci/make_venv.py tflite-runtime\n"


def test_no_python_names_the_command_that_installs_one(bin_directory: Path) -> None:
    add_script(bin_directory, "python3", "exit 1")
    add_script(bin_directory, "apt-get", "exit 0")
    done = find_python(bin_directory)
    assert done.returncode == 1
    assert "Python 3.11 or newer" in done.stderr
    assert "sudo apt-get install python3.11 python3.11-venv" in done.stderr


def test_python_asked_for_is_not_silently_replaced(bin_directory: Path) -> None:
    add_script(bin_directory, "old", "exit 1")
    (bin_directory / "python3").symlink_to(sys.executable)
    done = find_python(bin_directory, PYTHON="old")
    assert done.returncode == 1
    assert "PYTHON=old is not a Python 3.11 or newer" in done.stderr


# Fetching pip where Python has none ---------------------------------------------------------------------

WHEEL = b"as good as a wheel"
PIP_LOCK = f"pip==9.1 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{hashlib.sha256(WHEEL).hexdigest()}\n"


class Index(BaseHTTPRequestHandler):
    """A package index that has one pip."""

    def do_GET(self) -> None:
        pages = {
            "/simple/pip/": b'<a href="../../files/pip-9.1-py3-none-any.whl#sha256=0">pip</a>',
            "/files/pip-9.1-py3-none-any.whl": WHEEL,
        }
        self.send_response(200 if self.path in pages else 404)
        self.end_headers()
        self.wfile.write(pages.get(self.path, b""))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the base class
        """Say nothing."""


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_pip_is_fetched_from_the_index_in_the_users_pip_configuration(index: str, tmp_path: Path) -> None:
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    (tmp_path / ".config" / "pip" / "pip.conf").write_text(f"[global]\nindex-url = {index}/simple/\n")
    path = make_venv.fetch_pip(PIP_LOCK, tmp_path, {"HOME": str(tmp_path)})
    assert path == tmp_path / "pip-9.1-py3-none-any.whl"
    assert path.read_bytes() == WHEEL


@pytest.mark.parametrize(
    ("lock", "place", "reason"),
    [
        (f"pip==9.1 \\\n    --hash=sha256:{'0' * 64}\n", "/simple", "refused pip-9.1-py3-none-any.whl"),
        (f"pip==9.2 \\\n    --hash=sha256:{'0' * 64}\n", "/simple", "has no pip-9.2-py3-none-any.whl"),
        (PIP_LOCK, "/elsewhere", "404"),
        ("pip==9.1\n", "/simple", "does not pin pip with its hashes"),
    ],
    ids=["other content", "not there", "no such index", "no hash"],
)
def test_pip_that_is_not_as_locked_is_refused(index: str, tmp_path: Path, lock: str, place: str, reason: str) -> None:
    with pytest.raises(make_venv.SetupError, match=reason):
        make_venv.fetch_pip(lock, tmp_path, {"PIP_INDEX_URL": index + place, "HOME": str(tmp_path)})
    assert not list(tmp_path.iterdir())


def test_unreachable_index_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(make_venv.SetupError, match=r"cannot fetch pip from the package index 127\.0\.0\.1"):
        make_venv.fetch_pip(PIP_LOCK, tmp_path, {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"})
