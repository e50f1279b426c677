"""Every target of ``make fuzz`` over its seeds and some hundreds of mutations, without the fuzzer; and the campaign."""

import importlib.util
import random
import re
import subprocess
from pathlib import Path
from zlib import crc32

import pytest

from tests.fuzz import campaign as command
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS, Target

MUTATIONS = 300


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_mutations_of_them(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    generator = random.Random(crc32(name.encode()))
    for data in (b"", *seeds, *(mutated(generator, seeds) for _ in range(MUTATIONS))):
        target.run(data)


CHILD = """
import pathlib, sys, time
directory, seeds = map(pathlib.Path, sys.argv[3:])
assert {path.read_bytes() for path in seeds.iterdir()} == {b"one", b"two"}
if sys.argv[1] == "hangs":
    time.sleep(60)
if sys.argv[1] == "crashes":
    (directory / "found" / "crash-1").write_bytes(b"boom")
print("#9 NEW cov: 12 ft: 13 corp: 3/99b", "ValueError: boom", "stat::number_of_executed_units: 77", sep="\\n")
sys.exit(sys.argv[1] == "crashes")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign over targets, and a fuzzer, of the test's own."""
    (tmp_path / "own_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "CHILD", "own_child")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    for name in ("passes", "crashes", "hangs"):
        monkeypatch.setitem(TARGETS, name, Target(int, lambda: [b"one", b"two"]))


@pytest.mark.usefixtures("own")
def test_a_campaign_says_what_became_of_each_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["passes", "--seconds", "1"]) == 0
    assert re.fullmatch(r"passes +77 runs +\d+/s, +12 branches, +3 inputs\n", capsys.readouterr().out)


@pytest.mark.usefixtures("own")
def test_what_is_found_is_kept_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["passes", "crashes"]) == 1
    said = capsys.readouterr().out
    assert "ValueError: boom" in said
    (again,) = re.findall(r"^to run it again: (.*)$", said, re.MULTILINE)
    assert again.endswith(" -m tests.fuzz.campaign crashes --input .fuzz/crashes/found/crash-1")
    assert (tmp_path / again.split()[-1]).read_bytes() == b"boom"
    with pytest.raises(ValueError, match="invalid literal"):
        command.main(again.split()[3:])
    Path("good").write_bytes(b"12")
    assert command.main(["crashes", "--input", "good"]) == 0


@pytest.mark.usefixtures("own")
def test_a_fuzzer_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SLACK_S", 0.2)
    with pytest.raises(subprocess.TimeoutExpired):
        command.main(["hangs", "--seconds", "0.1"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "there is no target 'nothing'; there are argument, "),
        (["--input", "x"], "--input takes exactly one target"),
        ([], "atheris is not installed in this environment; `make fuzz`"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
