"""How the commands of ``napu`` are found."""

import subprocess
import sys

import pytest

from host_sdk.cli.app import COMMANDS

NAPU = (sys.executable, "-m", "host_sdk.cli.main")


def test_a_command_imports_no_other() -> None:
    script = (
        "import sys\n"
        "from host_sdk.cli.app import app\n"
        "try:\n    app(['discover', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "print(*[name for name in sys.modules if name.startswith('host_sdk.cli.')])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Ask everybody on the link" in ran.stdout
    imported = set(ran.stdout.splitlines()[-1].split())
    assert imported == {f"host_sdk.cli.{name}" for name in ("app", "files", "output", "query")}


def test_the_help_lists_every_command_in_order() -> None:
    ran = subprocess.run([*NAPU, "--help"], capture_output=True, text=True, check=True)
    listed = [line.split()[0] for line in ran.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize(("typed", "told"), [("infe", "Did you mean 'infer'?"), ("zzz", "No such command 'zzz'.")])
def test_what_is_no_command_is_a_sentence_and_status_2(typed: str, told: str) -> None:
    ran = subprocess.run([*NAPU, typed], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
