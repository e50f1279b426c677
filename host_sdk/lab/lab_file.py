"""Lab files: YAML with lines, bounded in every way, into a Topology."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml

from host_sdk.lab.topology import Topology
from host_sdk.wire.errors import ConfigError

MAX_BYTES: Final = 64 * 1024
MAX_NODES: Final = 20_000  # of the data after aliases are followed: a few lines of them can stand for billions


class PlacedMapping(dict[Any, Any]):
    """A mapping that knows where it stands.

    Attributes:
        line: The line that it begins in.
        lines: Of each key the line.
    """

    line: int
    lines: dict[Any, int]


class PlacedList(list[Any]):
    """A list that knows where its entries stand.

    Attributes:
        lines: Of each index the line.
    """

    lines: dict[int, int]


class _Loader(yaml.SafeLoader):
    """Constructs plain data alone, refuses keys that are there twice, and keeps lines."""

    def construct_placed_mapping(self, node: yaml.MappingNode) -> PlacedMapping:
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True) if key_node.tag != "tag:yaml.org,2002:merge" else None
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if key is not None and key in seen:
                sentence = f"key {key!r} is there twice, first in line {seen[key]}; leave one of them out"
                raise yaml.constructor.ConstructorError(None, None, sentence, key_node.start_mark)
            seen[key] = line
        self.flatten_mapping(node)
        found = PlacedMapping()
        found.line, found.lines = node.start_mark.line + 1, {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            found[key] = self.construct_object(value_node, deep=True)
            found.lines[key] = key_node.start_mark.line + 1
        return found

    def construct_placed_list(self, node: yaml.SequenceNode) -> PlacedList:
        found = PlacedList(self.construct_object(child, deep=True) for child in node.value)
        found.lines = {index: child.start_mark.line + 1 for index, child in enumerate(node.value)}
        return found


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_placed_mapping)
_Loader.add_constructor("tag:yaml.org,2002:seq", _Loader.construct_placed_list)


def load_lab_file(path: Path) -> Topology:
    """Read a lab file.

    Raises:
        ConfigError: It cannot be read, is no YAML, or describes no lab; the message begins with file and line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; name a lab file (docker/labs has some)") from None
    return parse_lab_file(data, str(path))


def parse_lab_file(data: bytes, name: str) -> Topology:
    """Read the content of a lab file.

    Args:
        data: The content.
        name: What to call the file in errors; paths in it are relative to its directory.

    Raises:
        ConfigError: As :func:`load_lab_file`.
    """
    return Topology.from_mapping(parse_yaml(data, name), name)


def parse_yaml(data: bytes, name: str) -> PlacedMapping:
    """Return what YAML says, with lines.

    Raises:
        ConfigError: It is no YAML of one mapping, or is over a bound.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name}: a lab file has at most {MAX_BYTES} bytes; use count for appliances that are equal")
    try:
        loader = _Loader(data)
        try:
            node = loader.get_single_node()
            _check_size(node, name)
            found = loader.construct_document(node) if node else None
        finally:
            loader.dispose()
    except RecursionError:
        raise ConfigError(f"{name}: it is nested too deeply for a lab file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}:{_reason(error)}") from None
    except (ValueError, OverflowError) as error:  # of a number or date that is none
        raise ConfigError(f"{name}: {error}; put it in quotes") from None
    if not isinstance(found, PlacedMapping):
        raise ConfigError(f"{name}: it has no mapping; begin with 'name: …' and 'appliances: …', as docs/labs.md says")
    return found


def _reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{mark.line + 1}: {problem}" if mark else f" {problem}"


def _check_size(root: yaml.Node | None, name: str) -> None:
    """Refuse data that is too large once every alias is followed, or has no end.

    Raises:
        ConfigError: It is.
    """
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        where = f"{name}:{node.start_mark.line + 1}"
        if id(node) in open_nodes:
            raise ConfigError(f"{where}: an alias stands within what it names; leave it out")
        open_nodes.add(id(node))
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        total = 1 + sum(size(child) for child in children)
        open_nodes.discard(id(node))
        if total > MAX_NODES:
            raise ConfigError(f"{where}: with its aliases followed this is more than {MAX_NODES} values; use fewer")
        sizes[id(node)] = total
        return total

    if root is not None:
        size(root)
