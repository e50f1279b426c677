"""Make a virtual environment of the project from its lock file, or do nothing when it is there and whole.

Standard library only: this runs before anything is installed. `.ci/setup` starts it with a fit Python.
"""

# ruff: noqa: E402 - signals come before the other imports
import signal

# Until main can say that it was interrupted, Ctrl-C ends this quietly: the imports take a while, and in the midst of
# them Python would print a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import fcntl
import hashlib
import html.parser
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAMP = "napu-setup.json"
USAGE = "usage: .ci/setup [tflite-runtime | fuzz]"
Command = list[str | Path]
FETCH_TIMEOUT_S = 30
INTERRUPTED_TIMEOUT_S = 2  # for pip to remove its own files after Ctrl-C

# What would install somewhere else, or something else than the lock says. The index settings are left alone.
MISLEADING = {
    "PIP_CONSTRAINT",
    "PIP_DRY_RUN",
    "PIP_PREFIX",
    "PIP_PYTHON",
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_ROOT",
    "PIP_TARGET",
    "VIRTUAL_ENV",
}

# Run by the environment's own Python. Compiled files come and go, so their absence is no damage.
INVENTORY = """
import importlib.metadata, json, os, sys
packages, missing = [], []
for package in importlib.metadata.distributions():
    packages.append(f"{package.name}=={package.version}")
    missing += [str(f) for f in package.files or () if f.suffix != ".pyc" and not os.path.exists(f.locate())]
print(json.dumps({"python": sys.version, "packages": sorted(packages), "missing": missing}))
"""


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment of the tree `root`, installed from the lock file `lock` in `.ci`.

    One that is made on demand names the package that it is made for, and what that has wheels for.
    """

    root: Path
    directory: str
    lock: str
    package: str = ""
    python_below: tuple[int, int] | None = None
    platform: str | None = None

    @property
    def path(self) -> Path:
        """The directory of the environment."""
        return self.root / self.directory

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.path / "bin" / "python"

    @property
    def temporary(self) -> Path:
        """Where temporary files go while it is made, so that none outlives it, however that ends."""
        return self.path / "tmp"

    @property
    def lock_path(self) -> Path:
        """The requirements with their hashes."""
        return self.root / ".ci" / self.lock

    def lacks_wheels_for(self, version: tuple[int, ...], platform: str) -> str:
        """Return what the package has no wheels for: this Python, this platform; or nothing."""
        if self.python_below and version >= self.python_below:
            return f"Python {version[0]}.{version[1]}"
        return "" if self.platform in (None, platform) else platform

    def inputs(self) -> str:
        """Return a hash of all that the environment is made from; scripts hold the path, so it counts too."""
        digest = hashlib.sha256(os.fsencode(self.root))
        for file in (self.lock_path, self.root / "pyproject.toml", Path(__file__)):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()


def environment(root: Path, name: str | None) -> Environment:
    """Return the environment called `name` on the command line; None is the main one."""
    if name is None:
        return Environment(root, ".venv", "requirements.lock")
    if name == "tflite-runtime":
        return Environment(root, ".venv-tflite", "tflite-runtime.lock", name, python_below=(3, 12))
    if name == "fuzz":
        return Environment(root, ".venv-fuzz", "fuzz.lock", "atheris", (3, 15), "Linux x86_64")
    raise SetupError(f"there is no environment {name!r}; {USAGE}")


def say(message: str) -> None:
    """Tell the user of one step."""
    sys.stderr.write(f"setup: {message}\n")


def clean_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without what would lead Python or pip away from the environment being made."""
    kept = {k: v for k, v in environ.items() if k not in MISLEADING and not k.startswith("PYTHON")}
    return kept | {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(command: Command, temporary: Path, held: int) -> None:
    """Run `command` quietly; raise SetupError with all its output if it fails.

    Its temporary files go to the directory `temporary`, which is made. It inherits the descriptor `held` of the
    lock: should it outlive this script, the next one waits for it.
    """
    temporary.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        command,
        env=clean_environ(os.environ) | {"TMPDIR": str(temporary)},
        pass_fds=[held],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with process:
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:  # the terminal has sent it to the command too
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=INTERRUPTED_TIMEOUT_S)
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        raise SetupError(f"this failed: {' '.join(map(str, command))}\n{output.rstrip()}")


def inventory(python: Path) -> dict[str, Any] | None:
    """Return what the interpreter `python` has installed, or None if it does not run or files are missing."""
    try:
        text = subprocess.run(
            [python, "-I", "-c", INVENTORY], capture_output=True, check=True, env=clean_environ(os.environ)
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found: dict[str, Any] = json.loads(text)
    return None if found.pop("missing") else found


def is_current(env: Environment, python_version: str | None) -> bool:
    """Tell whether `env` was made to its end from today's inputs, and is still whole.

    It may hold more packages than were locked. Unless `python_version` names one, its Python may be another
    than the caller's, so that sudo or a version manager does not make it anew every time.
    """
    try:
        stamp = json.loads((env.path / STAMP).read_text())
    except (OSError, ValueError):
        return False
    if stamp.get("inputs") != env.inputs() or python_version not in (None, stamp["python"]):
        return False
    found = inventory(env.python)
    return found is not None and found["python"] == stamp["python"] and set(stamp["packages"]) <= set(found["packages"])


@contextmanager
def exclusive(root: Path) -> Iterator[int]:
    """Hold the tree's set-up lock, waiting for whoever has it; yield its file descriptor."""
    try:
        file = (root / ".setup.lock").open("w")
    except OSError as error:
        raise SetupError(f"{error}\nRun setup as the owner of this tree, or in a copy of your own") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another setup in this tree to finish")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def base_python() -> str:
    """Return the interpreter to build on, which an activated environment (maybe the one replaced) is not."""
    if sys.prefix == sys.base_prefix:
        return sys.executable
    return str(Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}"))


def pip_setting(name: str, environ: Mapping[str, str]) -> str | None:
    """Return pip's global setting `name`, from its variable or else its configuration files."""
    if value := environ.get("PIP_" + name.upper().replace("-", "_")):
        return value
    home = Path(environ.get("HOME", "/"))
    own = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    files = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", own]
    config = ConfigParser(interpolation=None)
    try:
        config.read([*files, *filter(None, [environ.get("PIP_CONFIG_FILE")])])
    except ConfigError as error:
        raise SetupError(f"pip's configuration cannot be read; mend it: {error}") from error
    return config.get("global", name, fallback=None)


class Links(html.parser.HTMLParser):
    """Collects the links of a package's page in an index, in `hrefs`."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address of an anchor."""
        self.hrefs += [value for name, value in attrs if tag == "a" and name == "href" and value]


def locked_pip(lock: str) -> tuple[str, set[str]]:
    """Return the file name of the pip wheel that a lock file's text pins, and its SHA-256s in hex."""
    pinned = re.search(r"^pip==(\S+)((?:[ \\\n]+--hash=sha256:[0-9a-f]{64})+)", lock, re.MULTILINE)
    if not pinned:
        raise SetupError("the lock file does not pin pip with its hashes; run `make lock`")
    return f"pip-{pinned[1]}-py3-none-any.whl", set(re.findall("[0-9a-f]{64}", pinned[2]))


def fetch_pip(lock: str, folder: Path, environ: Mapping[str, str]) -> Path:
    """Download the pip wheel that `lock` pins into `folder` from the user's index and return its path."""
    wheel, hashes = locked_pip(lock)
    index = pip_setting("index-url", environ)
    if not index:
        raise SetupError("no package index is set from which pip could be fetched (PIP_INDEX_URL=…)")
    page = index.rstrip("/") + "/pip/"
    host = urllib.parse.urlsplit(index).hostname
    if not page.startswith(("https://", "http://")):
        raise SetupError(f"cannot fetch pip from the index {index}: it is not a web address")
    try:
        links = Links()
        request = urllib.request.Request(page, headers={"Accept": "text/html"})  # noqa: S310 - checked above
        with urllib.request.urlopen(request, timeout=FETCH_TIMEOUT_S) as answer:  # noqa: S310
            links.feed(answer.read().decode())
        hrefs = [h for h in links.hrefs if urllib.parse.urlsplit(h).path.rpartition("/")[2] == wheel]
        if not hrefs:
            raise SetupError(f"the package index {host} has no {wheel}")
        with urllib.request.urlopen(urllib.parse.urljoin(page, hrefs[0]), timeout=FETCH_TIMEOUT_S) as answer:  # noqa: S310
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise SetupError(f"cannot fetch pip from the package index {host}: {error}") from error
    if hashlib.sha256(content).hexdigest() not in hashes:
        raise SetupError(f"refused {wheel} from {host}: its SHA-256 is not one of those in the lock file")
    path = folder / wheel
    path.write_bytes(content)
    return path


def pip_command(env: Environment) -> Command:
    """Return the command of a pip that works on `env`, which has none: the system's, or a downloaded one."""
    system: Command = [base_python(), "-I", "-m", "pip", "--python", env.python]
    try:
        subprocess.run([*system, "--version"], capture_output=True, check=True, env=clean_environ(os.environ))
    except subprocess.CalledProcessError:
        say(f"{env.directory}: no pip here that could install into it; fetching one")
    else:
        return system
    try:
        return [env.python, fetch_pip(env.lock_path.read_text(), env.path, os.environ) / "pip"]
    except SetupError as error:
        raise SetupError(f"{error}\nOn Debian or Ubuntu this helps: sudo apt-get install {venv_package()}") from error


def venv_package() -> str:
    """Return the name of Debian's package that has this Python's ensurepip."""
    return f"python{sys.version_info.major}.{sys.version_info.minor}-venv"


def without_ensurepip(env: Environment, venv: Command, held: int) -> Command:
    """Make `env` where this Python has no ensurepip; return the command of a pip that works on it.

    Root on Debian or Ubuntu is given the package that it is in; others get by with a pip from elsewhere.
    """
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"{env.directory}: this Python has no ensurepip; installing {venv_package()}")
        try:
            run(["apt-get", "update", "-q"], env.temporary, held)
            run(["apt-get", "install", "-q", "-y", "--no-install-recommends", venv_package()], env.temporary, held)
            run([*venv, "--clear"], env.temporary, held)
        except SetupError as error:
            say(f"{env.directory}: that did not help; {error}".splitlines()[0])
        else:
            return [env.python, "-I", "-m", "pip"]
    run([*venv, "--clear", "--without-pip"], env.temporary, held)
    return pip_command(env)


def make(env: Environment, held: int) -> None:
    """Make `env` from nothing; its stamp comes last, so one left half-made is known by having none."""
    started = time.monotonic()
    (env.path / STAMP).unlink(missing_ok=True)
    if env.path.exists():
        shutil.rmtree(env.path)
    say(f"{env.directory}: making it with Python {sys.version.split()[0]}")
    inputs = env.inputs()
    venv: Command = [base_python(), "-I", "-m", "venv", env.path]
    try:
        run(venv, env.temporary, held)
        pip: Command = [env.python, "-I", "-m", "pip"]
    except SetupError:  # most likely for want of ensurepip, which Debian has in a package of its own
        pip = without_ensurepip(env, venv, held)
    count = len(re.findall("^[^#\\s]", env.lock_path.read_text(), re.MULTILINE))
    say(f"{env.directory}: installing about {count} packages (a minute or so the first time)")
    try:
        run([*pip, "install", "--quiet", "--no-deps", "--require-hashes", "-r", env.lock_path], env.temporary, held)
    except SetupError as error:
        raise SetupError(
            f"{error}\nIf the package index cannot be reached: check the network, or name another index "
            "(PIP_INDEX_URL=…) or a directory of wheels (PIP_NO_INDEX=1 PIP_FIND_LINKS=…)"
        ) from error
    say(f"{env.directory}: installing the project itself")
    run([*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", env.root], env.temporary, held)
    shutil.rmtree(env.temporary)
    found = inventory(env.python)
    if found is None:
        raise SetupError(f"{env.directory} is not whole although pip was content; run setup again")
    (env.path / STAMP).write_text(json.dumps({"inputs": inputs, **found}, indent=1))
    say(f"{env.directory}: ready after {time.monotonic() - started:.0f} s")


def main(arguments: list[str], root: Path, version: tuple[int, ...]) -> int:
    """Bring the environment named in `arguments` up to date with this Python; return the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if len(arguments) > 1:
            raise SetupError(USAGE)
        env = environment(root, arguments[0] if arguments else None)
        system = os.uname()
        if lacking := env.lacks_wheels_for(version, f"{system.sysname} {system.machine}"):
            say(f"{env.directory} left out: {env.package} has no wheels for {lacking}")
            return 0
        asked = sys.version if os.environ.get("PYTHON") else None
        if not is_current(env, asked):
            with exclusive(root) as held:
                if not is_current(env, asked):  # another setup may have made it meanwhile
                    make(env, held)
    except KeyboardInterrupt:
        say("interrupted; the next setup starts afresh")
        return 130
    except (SetupError, OSError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent.parent, sys.version_info[:3]))
