"""The commands of ``napu``: each is imported when it is asked for, as all together take most of a second."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

# By name, in the order of the help: the module below host_sdk.cli, and what it calls the command or the group.
COMMANDS: Final = {
    "demo": "demo:demo",
    "discover": "query:discover",
    "infer": "query:infer",
    "load": "load:load",
    "cluster": "cluster:cluster_app",
    "pipelines": "query:pipelines_app",
    "stats": "query:stats",
    "console": "manage:console",
    "status": "manage:status",
    "fw": "fw:fw_app",
    "attest": "attest:attest",
    "lab": "lab:lab_app",
    "ca": "ca:ca_app",
    "link": "lab:link",
    "capture": "capture:capture",
    "decode": "explain:decode",
    "explain": "explain:explain",
    "dissector": "dissector:dissector_app",
    "bench": "bench:bench",
    "conformance": "conformance:conformance",
    "replay": "replay:replay",
    "trace": "trace:trace",
}


_STYLE: Final[dict[str, Any]] = {
    "add_completion": False,
    "no_args_is_help": True,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


def _only_groups() -> None:
    """Every command is a subcommand."""


def _load(name: str) -> Any:
    """Return a command or a group of commands, in the style of all."""
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(f"host_sdk.cli.{module}"), attribute)
    parent = typer.Typer(**_STYLE)
    parent.callback()(_only_groups)
    if isinstance(found, typer.Typer):
        parent.add_typer(found, name=name)
    else:
        parent.command(name)(found)
    made: Any = get_command(parent)
    return made.commands[name]


class _Lazy(Mapping[str, Any]):
    """The commands by name, each imported when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        return _load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Commands(TyperGroup):
    """A group that imports a command when it is run; help alone imports all of them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": {}})
        self.commands = _Lazy()  # type: ignore[assignment]


app = typer.Typer(
    cls=_Commands,
    help=(
        "Network-attached inference appliances: find them, run inferences on them, make labs of them. "
        "Exit status: 0 success, 1 an appliance or the link failed, 2 wrong arguments, 3 nobody answered in time, "
        "130 interrupted."
    ),
    **_STYLE,
)
app.callback()(_only_groups)
