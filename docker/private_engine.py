"""Run a command with a Docker Engine, and leave the machine as it was; started by ``docker/engine``.

An engine that answers is taken as it is. Else, as root, a private one is started in a temporary directory for the time
of the command, without a word to the machine's firewall and forwarding. Standard library only.
"""

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from apt_packages import Apt, SetupError, run, say

PACKAGES = ("docker.io", "iptables")
COMPOSE_RELEASE = "trixie"  # the first Debian that has Compose v2
COMPOSE = "usr/libexec/docker/cli-plugins/docker-compose"
POLICY = Path("/usr/sbin/policy-rc.d")
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
ASK_TIMEOUT_S = 20
PR_SET_PDEATHSIG = 1
# The machine's firewall, forwarding and default bridge are not this engine's.
KEEP_OUT = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none")
HELP = """\
The engine at DOCKER_HOST, or at the default socket, is used where it answers. Else, as root and with dockerd
installed, a private one runs for the time of the command, which finds it in DOCKER_HOST. Exit status: that of the
command; 1 where no engine can be had."""


class Stopped(Exception):  # noqa: N818 - no error
    """A signal asks to end."""


def answers() -> bool:
    """Return whether an engine answers, in which case the ``docker`` command is there as well."""
    try:
        run(["docker", "version", "--format", "{{.Server.Version}}"], timeout=ASK_TIMEOUT_S)
    except SetupError:
        return False
    return True


def has_compose() -> bool:
    """Return whether ``docker compose`` is there."""
    try:
        run(["docker", "compose", "version"], timeout=ASK_TIMEOUT_S)
    except SetupError:
        return False
    return True


def require_dockerd(*, install: bool) -> None:
    """Have what a private engine takes.

    Raises:
        SetupError: It is not there and must not or cannot be installed.
    """
    if os.geteuid() != 0:
        raise SetupError("no Docker Engine answers, and starting one needs root: start yours, or set DOCKER_HOST")
    if shutil.which("dockerd") and shutil.which("docker") and shutil.which("iptables"):
        return
    if not shutil.which("apt-get"):
        raise SetupError("no Docker Engine answers, and there is no apt-get to install one: install Docker Engine")
    if not install:
        raise SetupError(f"no Docker Engine answers; apt-get install {' '.join(PACKAGES)}, or let --install do it")
    say(f"installing {' '.join(PACKAGES)} …")
    with _no_services():
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "-qq", "update"], env=environment)
        run(["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *PACKAGES], env=environment)
    if Path("/run/systemd/system").is_dir():  # else the next start of the machine would change its firewall
        run(["systemctl", "disable", "--quiet", "docker.service", "docker.socket"])


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep packages from starting services as they are installed, by the file that Debian has for it."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


@contextmanager
def private_engine(directory: Path) -> Iterator[str]:
    """Run an engine in a directory, and yield its address.

    At the end its containers and networks are removed, it is stopped by its process, and what it mounted is unmounted.

    Raises:
        SetupError: It did not answer in time; the message has the end of its log.
    """
    address = f"unix://{directory / 'docker.sock'}"
    (directory / "daemon.json").write_text("{}\n")  # not the machine's
    cgroup = f"napu-engine-{os.getpid()}"
    command = ["dockerd", "-H", address, "--config-file", str(directory / "daemon.json"), *KEEP_OUT]
    command += ["--data-root", str(directory / "data"), "--exec-root", str(directory / "exec")]
    command += ["--pidfile", str(directory / "dockerd.pid"), "--userland-proxy=false", "--shutdown-timeout=2"]
    command += ["--exec-opt", "native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{cgroup}"]
    log = directory / "dockerd.log"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": path},
            start_new_session=True,  # Ctrl-C is for this process
            preexec_fn=_die_with_parent,
        )
    environment = {**os.environ, "DOCKER_HOST": address}
    try:
        _wait(daemon, environment, log)
        yield address
    finally:
        with suppress(SetupError):
            _empty(environment)
        _stop(daemon, directory)
        _remove_cgroup(cgroup)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(daemon: "subprocess.Popen[bytes]", environment: dict[str, str], log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while daemon.poll() is None and time.monotonic() < end:
        with suppress(SetupError):
            run(["docker", "version"], timeout=ASK_TIMEOUT_S, env=environment)
            return
        time.sleep(0.2)
    told = log.read_text(errors="replace").strip().splitlines()
    raise SetupError(f"the private engine did not start: {' | '.join(told[-3:])}")


def _empty(environment: dict[str, str]) -> None:
    """Remove containers and networks, whose interfaces an engine leaves behind when it stops."""
    containers = run(["docker", "ps", "--all", "--quiet"], env=environment).split()
    if containers:
        run(["docker", "rm", "--force", "--volumes", *containers], env=environment)
    run(["docker", "network", "prune", "--force"], env=environment)


def _stop(daemon: "subprocess.Popen[bytes]", directory: Path) -> None:
    daemon.terminate()
    try:
        daemon.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
        with suppress(OSError, ValueError):
            os.kill(int((directory / "exec/containerd/containerd.pid").read_text()), signal.SIGKILL)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if Path(mount).is_relative_to(directory)]):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


def _remove_cgroup(name: str) -> None:
    for hierarchy in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*")):
        for path in (hierarchy / name, *(hierarchy / name).glob("*")):
            if path.is_dir():
                with suppress(OSError):
                    path.rmdir()


def fetch_compose(directory: Path) -> None:
    """Put the Compose plugin of a later Debian into a configuration directory of the ``docker`` command.

    Raises:
        SetupError: There is no apt, or it cannot have it.
    """
    say("fetching Docker Compose …")
    apt_directory, unpacked = directory / "apt", directory / "compose"
    apt_directory.mkdir()
    (package,) = Apt(apt_directory, COMPOSE_RELEASE, empty=True).fetch(["docker-compose"], dependencies=False)
    run(["dpkg-deb", "--extract", package, unpacked])
    plugins = directory / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    (unpacked / COMPOSE).replace(plugins / "docker-compose")
    own = Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser() / "config.json"
    if own.is_file():
        shutil.copy(own, directory / "config")
    shutil.rmtree(apt_directory)
    shutil.rmtree(unpacked)


def run_with_engine(command: Sequence[str], *, install: bool, optional: bool) -> int:
    """Run a command with an engine and Docker Compose, and return its exit status.

    Raises:
        SetupError: No engine can be had; the message says what to do.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="napu-engine-", ignore_cleanup_errors=True)))
        environment = dict(os.environ)
        have = answers()
        if not have:
            try:
                require_dockerd(install=install)
            except SetupError as error:
                if not optional:
                    raise
                say(f"going on without: {error}")
            else:
                say("starting a private Docker Engine …")
                environment["DOCKER_HOST"] = stack.enter_context(private_engine(directory))
                have = True
        if have and not has_compose():
            try:
                fetch_compose(directory)
                environment["DOCKER_CONFIG"] = str(directory / "config")
            except SetupError as error:
                say(f"no Docker Compose: {error}")
        return _run_to_the_end(command, environment)


def _run_to_the_end(command: Sequence[str], environment: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise SetupError(f"{command[0]} cannot be run: {error.strerror}") from None
    try:
        return process.wait()
    except Stopped:
        process.send_signal(signal.SIGINT)  # a Ctrl-C came to it as well, and a second one does no harm
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        return 128 + signal.SIGINT
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _stop_asked(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # the way down is not to be left halfway
    raise Stopped


def main() -> int:
    """Run ``docker/engine``; return the exit status."""
    parser = argparse.ArgumentParser(prog="docker/engine", description=HELP)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("run", help="run a command with an engine")
    verb.add_argument("--install", action="store_true", help=f"may install {' and '.join(PACKAGES)} (root, apt-get)")
    verb.add_argument("--optional", action="store_true", help="run the command without where none can be had")
    verb.add_argument("command", nargs="+", metavar="COMMAND", help="after --")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop_asked)
    try:
        status = run_with_engine(arguments.command, install=arguments.install, optional=arguments.optional)
    except SetupError as error:
        say(f"docker/engine: {error}")
        return 1
    except Stopped:
        return 128 + signal.SIGINT
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
