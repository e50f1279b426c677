"""napu-fw as it is typed: keys, certificates, images, and what becomes of mistakes."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from firmware.image import build_image, read_image
from tests.firmware.images import golden

ROOT_HASH = "21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9"


def run(*arguments: str | Path, umask: int = 0o022, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from firmware.cli import run; run()", *map(str, arguments)]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, umask=umask, env=env)


def done(*arguments: str | Path, **environment: str) -> str:
    result = run(*arguments, **environment)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout


def complaint(code: int, *arguments: str | Path, **environment: str) -> str:
    result = run(*arguments, **environment)
    assert result.returncode == code, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    assert result.stderr
    return result.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.napufw"
    done("build", path, "--version", "4.5")
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with root.pem, signing.pem and signing.cert, made as docs/firmware-image.md says."""
    folder = tmp_path_factory.mktemp("keys")
    done("keygen", "root", folder / "root.pem")
    done("keygen", "signing", folder / "signing.pem")
    done(*certify(folder, "signing.cert"))
    return folder


def certify(folder: Path, out: str, **changes: str | Path) -> list[str | Path]:
    options: dict[str, str | Path] = {
        "root": folder / "root.pem",
        "key": folder / "signing.pem.pub",
        "kind": "release",
        "serial": "7",
        "not_after": "2030-01-01",
    }
    given = [part for key, value in (options | changes).items() for part in (f"--{key.replace('_', '-')}", value)]
    return ["certify", folder / out, *given]


@pytest.fixture
def golden_path(tmp_path: Path) -> Path:
    path = tmp_path / "golden.napufw"
    path.write_bytes(golden())
    return path


def test_build_writes_the_image(image: Path) -> None:
    assert image.read_bytes() == build_image("4.5")
    assert [path.name for path in image.parent.iterdir()] == ["image.napufw"]


def test_build_says_what_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "image"
    options = ("--counter", "3", "--hardware", "board-9", "--expires", "2031-01-01")
    done("build", path, *options, SOURCE_DATE_EPOCH="1700000000")
    terms = read_image(path.read_bytes()).terms
    assert (terms.counter, terms.hardware) == (3, "board-9")
    assert (terms.issued, terms.expires) == (1700000000, 1924992000)


def test_inspect_shows_it(image: Path) -> None:
    shown = done("inspect", image)
    assert read_image(image.read_bytes()).digest.hex() in shown
    assert re.search(r"^build +files=\d+$", shown, re.MULTILINE)
    assert re.search(r"^key_kind +development$", shown, re.MULTILINE)


def test_inspect_as_json(golden_path: Path) -> None:
    found = json.loads(done("inspect", golden_path, "--json"))
    assert (found["version"], found["security_counter"], found["key_serial"]) == ("1.2.3", 5, 7)
    assert found["root_hash"] == ROOT_HASH


def test_verify_prints_every_check(image: Path) -> None:
    *checks, last = done("verify", image).splitlines()
    assert [line.rsplit(maxsplit=1) for line in checks] == [
        [name, "ok"]
        for name in (
            *("format and digest", "root key", "certificate", "signature", "kind of key", "revocation", "time"),
            *("hardware", "security counter"),
        )
    ]
    assert last.startswith(f"{image}: good, version 4.5")


def test_verify_says_why_not(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-1] + b"?")
    result = run("verify", image)
    assert result.returncode == 1
    assert re.search(r"^signature +REFUSED$", result.stdout, re.MULTILINE)
    assert "kind of key" not in result.stdout
    assert result.stderr.startswith("napu-fw: firmware image refused: the signature does not match")


def test_verify_by_another_root_and_time(golden_path: Path) -> None:
    assert "root key" in complaint(1, "verify", golden_path)
    done("verify", golden_path, "--root-hash", ROOT_HASH, "--at", "2030-01-01")
    assert "expired" in complaint(1, "verify", golden_path, "--root-hash", ROOT_HASH, "--at", "2030-01-01T00:00:01")
    assert "expired" in complaint(1, "verify", golden_path, "--root-hash", ROOT_HASH, "--at", "never")


def test_verify_by_a_policy(golden_path: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "firmware-image.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    policy = tmp_path / "policy.toml"
    policy.write_text(text)
    done("verify", golden_path, "--policy", policy)
    for old, new, why in (
        ("1893456000", "1893456001", "expired"),
        ("[3, 4]", "[7]", "revoked"),
        ('["release"]', '["development"]', "does not take"),
        ("lowest_counter = 5", "lowest_counter = 6", "security counter is 5"),
        ("napu-board-1", "napu-board-2", "built for napu-board-1"),
    ):
        assert old in text
        policy.write_text(text.replace(old, new))
        assert why in complaint(1, "verify", golden_path, "--policy", policy)


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    for umask in (0, 0o022):
        path = tmp_path / f"key-{umask}"
        assert run("keygen", "signing", path, umask=umask).returncode == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in (tmp_path / "key-0.pub").read_bytes()


def test_a_key_is_not_replaced_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    first = done("keygen", "root", path)
    before = path.read_bytes(), path.with_name("root.pem.pub").read_bytes()
    assert "--force" in complaint(2, "keygen", "root", path)
    path.with_name("root.pem.pub").unlink()
    assert "--force" in complaint(2, "keygen", "root", path)
    path.with_name("root.pem.pub").write_bytes(before[1])
    path.unlink()
    assert "--force" in complaint(2, "keygen", "root", path)
    assert not path.exists()
    second = done("keygen", "root", path, "--force")
    assert first != second
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["root.pem", "root.pem.pub"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    assert "--force" in complaint(2, "keygen", "root", tmp_path / "key")
    assert not (tmp_path / "elsewhere").exists()


def test_an_image_is_signed_with_a_key_of_ones_own(keys: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "release.napufw"
    options = ("--key", keys / "signing.pem", "--certificate", keys / "signing.cert")
    done("sign", image, out, *options)
    root_hash = json.loads(done("inspect", out, "--json"))["root_hash"]
    assert "good" in done("verify", out, "--root-hash", root_hash, "--at", "2029-12-31")
    complaint(1, "verify", out)
    assert out.read_bytes()[:-244] == image.read_bytes()[:-244]


def test_a_key_and_certificate_that_do_not_belong_together(keys: Path, image: Path, tmp_path: Path) -> None:
    done("keygen", "signing", tmp_path / "other.pem")
    out = tmp_path / "out"
    options = ("--key", tmp_path / "other.pem", "--certificate", keys / "signing.cert")
    assert "belong together" in complaint(2, "sign", image, out, *options)
    options = ("--key", keys / "signing.pem", "--certificate", keys / "signing.pem")
    assert "certificate" in complaint(2, "sign", image, out, *options)
    options = ("--key", keys / "signing.pem.pub", "--certificate", keys / "signing.cert")
    assert "no private key" in complaint(2, "sign", image, out, *options)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"key": "root.pem.pub"}, "signing key of its own"),
        ({"key": "signing.pem"}, "no public key"),
        ({"root": "root.pem.pub"}, "no private key"),
        ({"kind": "gold"}, "--kind"),
        ({"serial": "-1"}, "--serial"),
        ({"serial": str(2**32)}, "--serial"),
        ({"not_after": "soon"}, "'soon' is no time"),
        ({"not_after": "1969-12-31"}, "is no time"),
    ],
)
def test_certificates_that_are_not_made(keys: Path, changes: dict[str, str], why: str) -> None:
    paths = {key: keys / value if "pem" in value else value for key, value in changes.items()}
    assert why in complaint(2, *certify(keys, "bad.cert", **paths))
    assert not (keys / "bad.cert").exists()


def test_diff(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    done("build", other, "--version", "4.6")
    assert done("diff", image, image) == ""
    result = run("diff", image, other)
    assert (result.returncode, result.stderr) == (1, "")
    assert re.search(r"^version +4\.5 -> 4\.6$", result.stdout, re.MULTILINE)
    assert re.search(r"^changed +firmware/version\.py$", result.stdout, re.MULTILINE)
    found = json.loads(run("diff", image, other, "--json").stdout)
    assert (found["changed"], found["added"], found["removed"]) == (["firmware/version.py"], [], [])
    assert found["fields"]["version"] == ["4.5", "4.6"]


def test_what_cannot_be_compared(image: Path, golden_path: Path) -> None:
    assert "payload is no zip" in complaint(2, "diff", image, golden_path)
    complaint(2, "diff", image, "/nonexistent")


def test_an_endless_file_is_refused(tmp_path: Path) -> None:
    for command in ("inspect", "verify"):
        assert "does not begin as one" in complaint(1, command, "/dev/zero")
    assert "no private key" in complaint(
        2, "sign", "/dev/zero", tmp_path / "out", "--key", "/dev/zero", "--certificate", golden_certificate(tmp_path)
    )


def golden_certificate(folder: Path) -> Path:
    path = folder / "golden.cert"
    path.write_bytes(golden()[206:366])
    return path


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("inspect", "/nonexistent"), 1),
        (("verify", "/"), 1),
        (("build", "/nonexistent/out"), 1),
        (("keygen", "root", "/nonexistent/out"), 1),
        (("build", "/nonexistent/out", "--version", "not a version"), 2),
        (("build", "/nonexistent/out", "--counter", "-1"), 2),
        (("build", "/nonexistent/out", "--counter", "4294967296"), 2),
        (("build", "/nonexistent/out", "--hardware", "Board"), 2),
        (("build", "/nonexistent/out", "--expires", "2000-01-01"), 2),
        (("build", "/nonexistent/out", "--expires", "99999-01-01"), 2),
        (("verify", "/dev/null", "--root-hash", "12"), 2),
        (("verify", "/dev/null", "--policy", "/dev/zero"), 2),
        (("keygen", "tree", "/nonexistent/out"), 2),
        (("frobnicate",), 2),
        (("inspect",), 2),
    ],
)
def test_mistakes_end_in_a_sentence(arguments: tuple[str, ...], code: int) -> None:
    complaint(code, *arguments)


@pytest.mark.parametrize("epoch", ["", "soon", "-1", "9" * 40, "٣"])
def test_a_source_date_that_is_none(tmp_path: Path, epoch: str) -> None:
    assert "SOURCE_DATE_EPOCH" in complaint(2, "build", tmp_path / "out", SOURCE_DATE_EPOCH=epoch)


def test_every_command_explains_itself() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in ("keygen", "certify", "build", "sign", "verify", "inspect", "diff"):
        assert command in done("--help")
        assert "Usage" in done(command, "--help")
        assert f"| `{command} " in page
