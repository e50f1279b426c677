"""Who may import whom, what may come from outside, and how long a file or function may be.

The rules stand in RULES; the longest name that a module's own begins with decides. The checker reads source with
``ast`` and imports nothing, so that imports inside functions and for typing count like any other.
"""

import ast
import fnmatch
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("appliance", "firmware", "host_sdk")
MAX_FILE = 450  # lines
MAX_FUNCTION = 60


@dataclass(frozen=True)
class Rule:
    """What the modules below a name may import besides the standard library and what lies below that name."""

    project: tuple[str, ...] = ()
    third_party: tuple[str, ...] = ()


RULES = {
    "host_sdk": Rule(("host_sdk",), ("msgpack", "numpy")),
    "host_sdk.wire": Rule((), ("google_crc32c", "msgpack", "numpy")),
    "host_sdk.wire.secure": Rule(("host_sdk.wire",), ("OpenSSL", "cryptography", "msgpack")),
    "host_sdk.wire.attest": Rule(("host_sdk.wire",), ("cryptography",)),
    "host_sdk.wire.sealed": Rule(("host_sdk.wire",), ("cryptography", "numpy")),
    "host_sdk.access": Rule(("host_sdk",), ("cryptography", "msgpack")),
    "host_sdk.wire.links": Rule(("host_sdk.wire",), ("numpy", "pyroute2")),
    "host_sdk.bench": Rule(("host_sdk",), ("hdrh", "matplotlib", "msgpack", "numpy")),
    "host_sdk.bench.servers": Rule(  # programs of their own: each runs in an environment made for it
        (),
        ("ai_edge_litert", "batched_model", "grpc", "mlserver", "numpy", "tritonclient", "triton_python_backend_utils"),
    ),
    "host_sdk.capture": Rule(("host_sdk",), ("dpkt", "matplotlib", "msgpack", "numpy", "scapy")),
    "host_sdk.lab": Rule(("host_sdk",), ("pyroute2", "yaml")),
    "host_sdk.lab.docker": Rule(("host_sdk",), ("docker", "requests", "urllib3")),
    "host_sdk.lab.labs": Rule(("host_sdk",), ("docker",)),  # to see whether it is there
    "host_sdk.lab.graph_picture": Rule(("host_sdk",), ("matplotlib",)),
    "host_sdk.cli": Rule(("host_sdk", "appliance", "firmware"), ("numpy", "rich", "typer")),
    "host_sdk.cli.contact_sheet": Rule((), ("PIL",)),
    "appliance": Rule(("host_sdk.wire",), ("msgpack", "numpy")),
    "appliance.captured": Rule(("host_sdk.wire", "host_sdk.capture", "appliance"), ()),
    "appliance.cli": Rule(("host_sdk.wire", "appliance", "firmware"), ()),
    "appliance.board.device_key": Rule(("host_sdk.wire", "appliance"), ("cryptography",)),
    "appliance.dla": Rule(("host_sdk.wire", "appliance"), ("ai_edge_litert", "numpy", "tflite", "tflite_runtime")),
    "appliance.engines": Rule(("host_sdk.wire", "appliance"), ("PIL", "numpy")),
    "appliance.models": Rule(  # training scripts, which nothing else imports
        ("host_sdk.wire", "appliance"), ("PIL", "ai_edge_litert", "numpy", "sklearn", "tensorflow")
    ),
    "firmware": Rule(("host_sdk.wire", "appliance.board.regmap"), ("msgpack",)),
    "firmware.image": Rule(("host_sdk.wire", "firmware.version"), ("cryptography",)),
    "firmware.secure": Rule(("host_sdk.wire", "firmware"), ("cryptography", "msgpack")),
    "firmware.cli": Rule(("host_sdk.wire", "firmware"), ("typer",)),
    "firmware.reference_cli": Rule(("host_sdk.wire", "firmware", "appliance.pipelines.package"), ("typer",)),
}
EMPTY = ("host_sdk/__init__.py", "host_sdk/lab/__init__.py")
# Modules of the standard library that are good for nothing but I/O: not for the cable's pure part.
IMPURE = frozenset(
    (
        *("asyncio", "ctypes", "fcntl", "http", "mmap", "multiprocessing", "os", "select", "selectors", "shutil"),
        *("signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time", "urllib"),
    )
)


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that a module imports, by statement or by a call with a literal name."""
    module = module_name(path)
    package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def forbidden_imports(path: str, source: str) -> list[str]:
    """Return a sentence for everything that a module imports against the rules."""
    module = module_name(path)
    owner = max((prefix for prefix in RULES if below(module, prefix)), key=len)
    rule, found = RULES[owner], []
    pure = below(module, "host_sdk.wire") and not below(module, "host_sdk.wire.links")
    for line, name in imported(path, source):
        top = name.partition(".")[0]
        if top in PACKAGES:
            allowed = any(below(name, prefix) for prefix in (owner, *rule.project))
        elif top in sys.stdlib_module_names:
            allowed = not (pure and top in IMPURE)
        else:
            allowed = top in rule.third_party
        if path in EMPTY or not allowed:
            found.append(f"{path}:{line} imports {name}")
    return found


def too_long(path: str, source: str) -> list[str]:
    """Return a sentence for a file or function that is too long."""
    found = []
    if (lines := len(source.splitlines())) > MAX_FILE:
        found.append(f"{path} has {lines} lines; at most {MAX_FILE}")
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                found.append(f"{path}:{node.lineno} {node.name} has {length} lines; at most {MAX_FUNCTION}")
    return found


def sources() -> dict[str, str]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


def test_every_module_keeps_the_import_rules() -> None:
    files = sources()
    assert len(files) > 50
    found = [sentence for path, source in files.items() for sentence in forbidden_imports(path, source)]
    assert not found, "\n".join(found)


def test_no_file_and_no_function_is_too_long() -> None:
    found = [sentence for path, source in sources().items() for sentence in too_long(path, source)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("host_sdk/wire/header.py", "import pyroute2"),
        ("host_sdk/wire/header.py", "import socket"),
        ("host_sdk/wire/exchange/requester.py", "from time import monotonic_ns"),
        ("host_sdk/wire/header.py", "from host_sdk.client import NapuClient"),
        ("host_sdk/wire/header.py", "from host_sdk import client"),
        ("host_sdk/wire/header.py", "from .. import client"),
        ("host_sdk/wire/__init__.py", "from ..client import NapuClient"),
        ("host_sdk/wire/links/xdp.py", "from appliance.clock import Clock"),
        ("host_sdk/wire/links/xdp.py", "import scapy"),
        ("host_sdk/client.py", "import typer"),
        ("host_sdk/client.py", "from appliance.profile import load_profile"),
        ("host_sdk/lab/node.py", "import firmware.main"),
        ("host_sdk/cli/main.py", "import torch"),
        ("host_sdk/__init__.py", "import os"),
        ("host_sdk/lab/__init__.py", "from host_sdk.lab.lab import Lab"),
        ("appliance/device.py", "import host_sdk"),
        ("appliance/device.py", "from host_sdk import client"),
        ("appliance/device.py", "def run():\n    from firmware.main import main"),
        ("appliance/device.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import firmware"),
        ("appliance/device.py", "import importlib\nimportlib.import_module('firmware.main')"),
        ("appliance/device.py", "__import__('host_sdk.client')"),
        ("appliance/device.py", "import PIL"),
        ("appliance/cli.py", "import host_sdk.client"),
        ("firmware/hal.py", "from appliance.board import bus"),
        ("firmware/hal.py", "from appliance.board.registers import RegisterFile"),
        ("firmware/hal.py", "import numpy"),
        ("firmware/hal.py", "import cryptography"),
        ("firmware/image/keys.py", "import msgpack"),
        ("firmware/cli.py", "from appliance.board import regmap"),
        ("firmware/main.py", "import host_sdk.engine"),
    ],
)
def test_what_breaks_the_rules_is_found(path: str, source: str) -> None:
    assert len(forbidden_imports(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("host_sdk/wire/header.py", "import struct\nimport numpy as np\nfrom host_sdk.wire.schema import Layout"),
        ("host_sdk/wire/header.py", "from . import schema\nfrom .schema import Layout"),
        ("host_sdk/wire/links/xdp.py", "import os, socket\ndef watch():\n    import pyroute2"),
        ("host_sdk/client.py", "from host_sdk.engine import Engine\nimport numpy"),
        ("host_sdk/cli/main.py", "import appliance.cli, firmware.cli, typer"),
        ("appliance/device.py", "from host_sdk.wire import errors\nfrom appliance.board.board import Board"),
        ("appliance/cli.py", "from firmware.boot.rom import start"),
        ("firmware/hal.py", "from appliance.board import regmap\nfrom appliance.board.regmap import MAP"),
    ],
)
def test_what_keeps_the_rules_is_left_alone(path: str, source: str) -> None:
    assert forbidden_imports(path, source) == []


def test_what_is_too_long_is_found() -> None:
    assert len(too_long("a.py", "x = 1\n" * (MAX_FILE + 1))) == 1
    assert too_long("a.py", "x = 1\n" * MAX_FILE) == []
    function = "class A:\n    async def f(self):\n" + "        x = 1\n" * MAX_FUNCTION
    assert len(too_long("a.py", function)) == 1
    assert too_long("a.py", function.removesuffix("        x = 1\n")) == []


def test_nothing_but_the_three_packages_is_packaged() -> None:
    """A folder docker/ that became importable would shadow the Docker SDK."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name.isidentifier()} | {"docker"}
    assert {name for name in folders if any(fnmatch.fnmatch(name, entry) for entry in patterns)} == set(PACKAGES)
    assert not list((ROOT / "docker").rglob("__init__.py"))


IMPORT_ALL = """
import importlib, json, pkgutil, sys
import cryptography.x509, google_crc32c, msgpack, numpy, OpenSSL.SSL
events = []

def hook(event, arguments):
    kind = event.partition(".")[0]
    if event == "open":
        read = isinstance(arguments[0], str) and arguments[0].endswith((".py", ".pyc", ".so"))
        if not read or (isinstance(arguments[1], str) and arguments[1] != "r" and arguments[1] != "rb"):
            events.append([event, repr(arguments)])
    elif kind in ("socket", "subprocess", "fcntl", "mmap", "shutil", "tempfile", "pty", "resource", "signal"):
        events.append([event, repr(arguments)])
    elif kind == "os" and event not in ("os.listdir", "os.scandir"):
        events.append([event, repr(arguments)])

sys.addaudithook(hook)
import host_sdk.wire
names = [module.name for module in pkgutil.walk_packages(host_sdk.wire.__path__, "host_sdk.wire.")]
for name in names + sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([len(names), events]))
"""


def import_all(folder: Path, *more: str) -> tuple[int, list[list[str]]]:
    command = [sys.executable, "-B", "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]\n{IMPORT_ALL}"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, check=True, cwd=folder)
    count, events = json.loads(done.stdout)
    return count, events


def test_importing_the_cable_does_no_io(tmp_path: Path) -> None:
    count, events = import_all(tmp_path)
    assert count > 10
    assert events == []


def test_io_at_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "io_a.py").write_text("import socket\nsocket.socket().close()\n")
    (tmp_path / "io_b.py").write_text("open('/dev/null').close()\n")
    (tmp_path / "io_c.py").write_text("import os\nos.system('true')\n")
    _, events = import_all(tmp_path, "io_a", "io_b", "io_c")
    assert [event for event, _ in events] == ["socket.__new__", "open", "os.system"]
