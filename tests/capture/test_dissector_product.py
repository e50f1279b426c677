"""The dissector as a product: fresh, made of the schema, installed where Wireshark looks."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host_sdk.capture.dissector import __main__ as command
from host_sdk.capture.dissector.install import install, plugin_folder, uninstall
from host_sdk.capture.dissector.product import LAYOUTS, PRODUCT, committed, lua, made, tables
from host_sdk.wire import schema
from host_sdk.wire.errors import ConfigError
from tests.cli.test_cli import napu
from tests.rig.dissected import TSHARK, needs_tshark, over_ethernet, tshark, write_capture
from tests.wire.golden import INFER


def test_the_committed_dissector_is_fresh() -> None:
    assert committed() == made(), "run: python -m host_sdk.capture.dissector"


def test_a_change_of_the_schema_makes_it_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {**schema.STATUS_MEANING, schema.Status.BUSY: "Come back later."}
    monkeypatch.setattr(schema, "STATUS_MEANING", changed)
    assert "Come back later." in made()
    assert committed() != made()


def test_the_command_renews_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / PRODUCT
    copy.write_text(committed().replace("BUSY", "IDLE"), encoding="utf-8")
    assert command.main([str(copy), "--check"]) == 1
    assert "is stale" in capsys.readouterr().err
    assert command.main([str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == committed()
    assert command.main([str(copy), "--check"]) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (7, "7"),
        (schema.Status.BUSY, "16"),
        ('say "\\n"\n', '"say \\"\\\\n\\"\\n"'),
        ((1, "a"), '{ 1, "a" }'),
        ({"a": 1, schema.Opcode.OPEN: "x"}, '{ a = 1, [2] = "x" }'),
    ],
)
def test_values_become_lua(value: Any, text: str) -> None:
    assert lua(value) == text


def test_what_is_no_value_of_lua_is_refused() -> None:
    with pytest.raises(TypeError):
        lua(1.5)


@needs_tshark
def test_a_field_is_read_where_the_schema_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dissector follows the schema: with priority and credits in another order, tshark shows them so."""
    fields = list(schema.REQUEST_HEADER.fields)
    at = next(index for index, field in enumerate(fields) if field.name == "priority")
    fields[at], fields[at + 1] = fields[at + 1], fields[at]
    monkeypatch.setattr(schema, "REQUEST_HEADER", replace(schema.REQUEST_HEADER, fields=tuple(fields)))
    monkeypatch.setitem(LAYOUTS, "request_header", schema.REQUEST_HEADER)
    script = tmp_path / "other.lua"
    script.write_text(made(), encoding="utf-8")
    path = write_capture(tmp_path / "a.pcap", [(0, over_ethernet(INFER.data[0], 1, 2))])
    text = tshark(path, "-T", "fields", "-e", "nip.priority", "-e", "nip.credits", script=script)
    assert text.split() == ["0", "7"]


def test_tables_have_every_code_and_meaning() -> None:
    found = tables()
    assert found["values"]["status"] == {int(code): code.name for code in schema.Status}
    assert found["values"]["opcode"] == {int(code): code.name for code in schema.Opcode}
    assert [flag["name"] for flag in found["flags"]] == [flag.name for flag in schema.Flag]
    assert found["reserved_flags"] == 0xFFE0


def test_installing_twice_changes_nothing_and_an_old_one_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plugins"
    first, second = install(folder), install(folder)
    assert (first.changed, second.changed, first.path) == (True, False, folder / PRODUCT)
    assert first.path.read_text(encoding="utf-8") == committed()
    first.path.write_text(committed() + "-- of an older version\n", encoding="utf-8")
    assert install(folder).changed
    assert [path.name for path in folder.iterdir()] == [PRODUCT]
    assert uninstall(folder).changed
    assert not uninstall(folder).changed
    assert not list(folder.iterdir())


def test_a_file_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / PRODUCT).write_text("-- mine\n")
    for act in (install, uninstall):
        with pytest.raises(ConfigError, match="left alone"):
            act(tmp_path)
    assert (tmp_path / PRODUCT).read_text() == "-- mine\n"


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        install(tmp_path / "file" / "plugins")


def test_without_tshark_it_is_the_usual_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plugin_folder() == tmp_path / ".local" / "lib" / "wireshark" / "plugins"


@needs_tshark
def test_tshark_loads_what_was_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    done = napu("dissector", "install", "--json")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    path = write_capture(tmp_path / "a.pcap", [(0, over_ethernet(INFER.data[0], 1, 2))])
    shown = subprocess.run(
        [str(TSHARK), "-r", str(path), "-T", "fields", "-e", "nip.opcode"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert shown.stdout == "0x10\n"
    assert "removed" in napu("dissector", "uninstall").stdout
    assert "is not there" in napu("dissector", "uninstall").stdout


def test_print_prints_it_and_a_directory_can_be_chosen(tmp_path: Path) -> None:
    assert napu("dissector", "print").stdout == committed()
    assert "installed" in napu("dissector", "install", "--dir", str(tmp_path)).stdout
    (tmp_path / PRODUCT).write_text("-- mine\n")
    refused = napu("dissector", "install", "--dir", str(tmp_path))
    assert (refused.returncode, "left alone" in refused.stderr) == (2, True)
