"""What the documentation says can be typed is typed here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from host_sdk.cli.demo_images import held_out
from host_sdk.wire.schema import UDP_PORT
from tests.rig.dissected import needs_tshark, over_udp, write_capture
from tests.rig.nodes import node_process
from tests.wire.golden import OPEN, OPENED

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_the_readmes_python_example_runs(tmp_path: Path) -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    assert "/tmp/digits/0007-two.jpg" in example
    assert len(example.strip().splitlines()) <= 12
    picture = tmp_path / "two.jpg"
    picture.write_bytes(next(item.jpeg for item in held_out(500) if item.label == "two"))
    with node_process(tmp_path / "flash") as node:
        text = example.replace("/tmp/digits/0007-two.jpg", str(picture)).replace(f"127.0.0.1:{UDP_PORT}", node.address)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("two ")


def test_the_recipes_run_one_after_the_other(tmp_path: Path) -> None:
    with node_process(tmp_path / "flash") as node:
        ask, read, fuzz = blocks(ROOT / "docs" / "recipes.md", "python")
        port = node.address.rpartition(":")[2]
        printed = []
        for recipe in (ask, read, fuzz):
            text = recipe.replace(f'("127.0.0.1", {UDP_PORT})', f'("127.0.0.1", {port})')
            command = [sys.executable, "-c", text]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            printed.append(done.stdout)
        after = node.hardware()
    assert re.fullmatch(r"ANNOUNCE OK \d+ bytes of msgpack\n", printed[0])
    assert re.findall(r"opcode (\S+) request (\S+)", printed[1]) == [("0x01", "0x1234"), ("0x81", "0x1234")]
    fuzzed = sum(count for name, count in after.items() if name.startswith("frames_"))
    assert fuzzed > 202  # all of them, and those of the question
    assert after["frames_bad_fragment"] == 1


@needs_tshark
def test_the_recipes_shell_lines_run(tmp_path: Path) -> None:
    (lines,) = blocks(ROOT / "docs" / "recipes.md", "sh")
    frames = [(0, over_udp(OPEN.data[0], 1 << 16 | 50_000, 2 << 16 | UDP_PORT))]
    frames.append((412_000, over_udp(OPENED.data[0], 2 << 16 | UDP_PORT, 1 << 16 | 50_000)))
    write_capture(tmp_path / "trace.pcap", frames)
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    printed = []
    for line in ("napu dissector install", *lines.splitlines()):
        if "lua_script" in line:
            subprocess.run(["napu", "dissector", "uninstall"], env=environment, check=True, capture_output=True)
        done = subprocess.run(
            ["sh", "-ec", line], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[1].split() == ["0x82", "1", "0.000412000"]
    assert "opcode: OPENED (0x82)" in printed[-1]


def test_the_readmes_shell_lines_name_commands_that_exist() -> None:
    lines = [line.split("#")[0].split() for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    commands = {tuple(line[1:3]) if line[1] == "lab" else (line[1],) for line in lines if line and line[0] == "napu"}
    assert commands
    for command in commands:
        asked = [sys.executable, "-m", "host_sdk.cli.main", *command, "--help"]
        assert subprocess.run(asked, capture_output=True, check=False).returncode == 0, command
    targets = {line[1] for line in lines if line and line[0] == "make"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert targets >= {"demo", "test"}


def test_cli_md_lists_every_command_and_every_key_of_the_demos_json() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    from host_sdk.cli.app import COMMANDS

    assert [name for name in COMMANDS if f"`{name}" not in page] == []


CAPTURES = ROOT / "docs" / "captures"


@pytest.mark.parametrize(
    ("capture", "options"),
    [
        ("late-drain", ["explain", "--top", "100"]),
        ("silent", ["explain"]),
        ("damaged-flag", ["explain", "--top", "100", "--udp-port", "45999"]),
        ("damaged-flag", ["decode", "--udp-port", "45999", "--request", "3741380447488983326"]),
    ],
)
def test_the_bugs_are_in_their_captures(capture: str, options: list[str]) -> None:
    """Every line that docs/debugging.md shows of a capture is printed for it."""
    page = (ROOT / "docs" / "debugging.md").read_text(encoding="utf-8")
    shown = re.findall(
        rf"^napu {options[0]} docs/captures/{capture}\.pcapng.*?```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE
    )
    assert shown
    command = [sys.executable, "-m", "host_sdk.cli.main", options[0], str(CAPTURES / f"{capture}.pcapng"), *options[1:]]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    told = [re.sub(r"\s+", " ", line.strip()) for line in printed.splitlines()]
    for line in shown[0].strip().splitlines():
        wanted = re.sub(r"\s+", " ", line.strip())
        assert any(wanted in entry for entry in told), wanted
