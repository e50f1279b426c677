"""The lock files: they agree with pyproject.toml, are hashed throughout and hold nothing of one machine."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {"requirements.lock": "dev", "tflite-runtime.lock": "tflite-runtime", "fuzz.lock": "fuzz"}


def locked(name: str) -> dict[str, list[str]]:
    """Return the versions in a lock file for each package, each of them with hashes."""
    text = (ROOT / ".ci" / name).read_text()
    versions: dict[str, list[str]] = {}
    for package, version, rest in re.findall(r"^([\w.-]+)==([^\s;]+)(.*(?:\n +--hash=.*)*)", text, re.MULTILINE):
        assert "--hash=sha256:" in rest, f"{package} in {name} has no hash"
        versions.setdefault(canonicalize_name(package), []).append(version)
    return versions


@pytest.mark.parametrize(("lock", "extra"), LOCKS.items())
def test_lock_satisfies_pyproject(lock: str, extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    waiting = [Requirement(line) for line in project["dependencies"] + extras[extra]]
    versions = locked(lock)
    while waiting:
        requirement = waiting.pop()
        if requirement.name == project["name"]:
            waiting += [Requirement(line) for own in requirement.extras for line in extras[own]]
            continue
        found = versions.get(canonicalize_name(requirement.name), [])
        assert found, f"{requirement} is not in {lock}; run `make lock`"
        assert all(v in requirement.specifier for v in found), f"{requirement} but {found}; run `make lock`"


def test_the_image_has_the_versions_that_are_tested() -> None:
    tested, image = locked("requirements.lock"), locked("../docker/requirements.lock")
    assert {"ai-edge-litert", "dpkt", "numpy"} <= set(image)
    assert {name: found for name, found in image.items() if not set(found) <= set(tested[name])} == {}


@pytest.mark.parametrize("lock", ["requirements.lock", "build.lock"])
def test_the_images_locks_name_no_machine(lock: str) -> None:
    text = (ROOT / "docker" / lock).read_text()
    assert locked(f"../docker/{lock}")
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE), "an option such as --index-url belongs to the user"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_pins_pip_and_names_no_machine(lock: str) -> None:
    text = (ROOT / ".ci" / lock).read_text()
    assert locked(lock)["pip"]
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE), "an option such as --index-url belongs to the user"
