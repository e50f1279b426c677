"""Lab files as text: what they say, what is wrong in which line; and the schema, held against the reader."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.lab.file_format import LAB, SHAPES
from host_sdk.lab.lab_file import MAX_BYTES, load_lab_file, parse_lab_file
from host_sdk.lab.reader import Kind, ListOf, Place, Shape, Text, Whole
from host_sdk.lab.schema import SCHEMA_FILE, lab_schema, schema_text, with_tables
from host_sdk.lab.topology import Topology
from host_sdk.wire.errors import ConfigError

ROOT = Path(__file__).parents[2]
HEAD = "name: bench\nappliances:\n  - name: a\n"
VALIDATOR = jsonschema.Draft202012Validator(lab_schema())


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bench.yaml"
    file.write_text(HEAD + "    pipelines: [digits, /abs]\n    firmware: new.img\n    profile: edge.toml\n")
    (appliance,) = load_lab_file(file).appliances
    assert appliance.pipelines == (str(tmp_path / "digits"), "/abs")
    assert (appliance.firmware, appliance.profile) == (str(tmp_path / "new.img"), str(tmp_path / "edge.toml"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file"):
        load_lab_file(tmp_path / "none.yaml")


def test_anchors_merges_and_aliases_are_followed() -> None:
    text = HEAD + "    <<: &bad {faults_in: loss=5%}\n    faults_out: flip=1%\n  - <<: *bad\n    name: b\n"
    first, second = parse_lab_file(text.encode(), "f").appliances
    assert (first.faults_in, first.faults_out) == ("loss=5%", "flip=1%")
    assert (second.faults_in, second.faults_out) == ("loss=5%", "")


LAUGHS = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "    colour: red\n", r"f:4: appliances\[0\] has a key 'colour', which is not known; known are name"),
        (HEAD + "    profil: x\n", r"f:4: .*did you mean profile\?"),
        (HEAD + "mtu: 9001\n", "f:4: mtu is 9001; give 576 to 9000 bytes"),
        (
            HEAD + "  - {name: b, fault_seed: x}\n",
            r"f:4: appliances\[1\]\.fault_seed is 'x'; it must be a whole number",
        ),
        (HEAD + "  - name: b\n    faults_in: los=3%\n", r"f:4: appliances\[1\] is wrong: .*did you mean loss"),
        (HEAD + "links:\n- nodes: [a]\n- nodes: [b]\n", r"f:6: links\[1\] is at b, which is no node"),
        (HEAD + "name: c\n", "f:4: key 'name' is there twice, first in line 1; leave one of them out"),
        (HEAD + "    arguments: [--seed, 7]\n", r"f:4: appliances\[0\]\.arguments\[1\] is 7; it must be text"),
        (HEAD + "    name: b\n", "f:4: key 'name' is there twice, first in line 3"),
        (HEAD + "  - name: a\n", "f: lab bench: two nodes have the name a"),
        (HEAD + "\tmtu: 5\n", "f:4: found character '.t' that cannot start any token"),
        (HEAD + "? [x]\n: y\n", "f:4: a key must be text"),
        ("name: !!python/name:os.system\n", "f:1: could not determine a constructor for the tag"),
        ("name: 2001-99-99\n", "f: month must be in 1..12; put it in quotes"),
        ("name: a\n---\nname: b\n", "f:2: but found another document"),
        ("- name: a\n", "f: it has no mapping; begin with"),
        ("", "f: it has no mapping"),
        ("{", "f:1: "),
        ("x: &x [*x]\n", "f:1: an alias stands within what it names"),
        ("x0: &x0 [1]\n" + LAUGHS, "f:6: with its aliases followed this is more than 20000 values"),
        ("[" * 1000, "f: it is nested too deeply"),
        ("#" * (MAX_BYTES + 1), "f: a lab file has at most 65536 bytes"),
        ("name: \x00\n", "f: "),
        ("name: \udcff\n", "f"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_lab_file(text.encode("utf-8", "surrogateescape"), "f")


def test_the_published_schema_and_the_tables_are_those_of_the_format() -> None:
    assert SCHEMA_FILE.read_text() == schema_text(), "renew it: python -m host_sdk.lab.schema docs/labs.md"
    page = (ROOT / "docs" / "labs.md").read_text()
    assert with_tables(page) == page, "renew it: python -m host_sdk.lab.schema docs/labs.md"
    assert page.count("<!-- generated: ") == len(SHAPES)
    assert with_tables("<!-- generated: link -->\nold\n<!-- end -->").count("| `rate` |") == 1


JUNK = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=3), st.lists(st.text(max_size=2), max_size=2)
)
TEXTS = st.one_of(
    st.sampled_from(
        ["a", "napu-1", "switch", "keeper", "switches", "-a", "Ä", "", "a\n", "x\0", "x/y.toml", "loss=5%"]
    ),
    st.sampled_from(["docker", "packet", "direct", "open", "mutual", "10Mbit", ".5gbit", "1kbit\n", "5", "\u0661Mbit"]),
    st.sampled_from(["02:00:00:00:00:01", "02:00:00:00:00:01\n"]),
)


def values_of(kind: Kind) -> st.SearchStrategy[Any]:
    """Return values that a kind takes, and such as are nearly right."""
    if isinstance(kind, Shape):
        keys = {key.name: values_of(key.kind) for key in kind.keys}
        required = {key.name for key in kind.keys if key.name in ("name", "nodes")}
        there = {name: keys.pop(name) for name in required}
        right = st.fixed_dictionaries(there, optional=keys)
        wrong = st.fixed_dictionaries({}, optional={**keys, "colour": JUNK})
        return st.one_of(right, right, wrong)
    if isinstance(kind, ListOf):
        return st.lists(values_of(kind.entry), max_size=3)
    if isinstance(kind, Whole):
        bounds = [kind.least, kind.most, kind.least - 1, kind.most + 1, float(kind.least), kind.least + 0.5, True]
        return st.sampled_from(bounds)
    assert isinstance(kind, Text)
    return st.one_of(st.sampled_from(kind.choices), TEXTS) if kind.choices else TEXTS


def test_the_strategy_makes_both_kinds() -> None:
    for pattern, right, wrong in (("name", "a", "a\n"), ("driver", "docker", "podman"), ("mtu", 1500.0, True)):
        data: dict[str, Any] = {"name": "a", "appliances": [{"name": "b"}]}
        assert VALIDATOR.is_valid(data | {pattern: right})
        assert not VALIDATOR.is_valid(data | {pattern: wrong})


@given(st.one_of(values_of(LAB), st.builds(lambda lab, more: {**lab, "appliances": more}, values_of(LAB), JUNK)))
def test_the_reader_takes_what_the_schema_takes(data: dict[str, Any]) -> None:
    try:
        LAB.read(data, Place("lab"))
        read = True
    except ConfigError:
        read = False
    assert VALIDATOR.is_valid(data) == read
    try:
        topology = Topology.from_mapping(data)
    except ConfigError:
        return
    assert read
    mapping = json.loads(json.dumps(topology.to_mapping()))
    assert VALIDATOR.is_valid(mapping)
    assert Topology.from_mapping(mapping) == topology


@pytest.mark.parametrize("path", sorted((ROOT / "docker" / "labs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_labs(path: Path) -> None:
    topology = load_lab_file(path)
    assert topology.name == path.stem
    assert len(path.read_text().splitlines()) <= 20
    assert all((Path(each) / "pipeline.toml").is_file() for node in topology.appliances for each in node.pipelines)


def test_there_are_three_examples() -> None:
    counts = {path.stem: len(load_lab_file(path).appliances) for path in (ROOT / "docker" / "labs").glob("*.yaml")}
    assert counts == {"small": 2, "faulty": 2, "fleet": 32}
