"""Commands that look after one appliance: console, status."""

import errno
import json
import select
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from host_sdk.cli.log_reader import LogEvent, LogLine, LogReader, Lost
from host_sdk.cli.output import JsonOption, LabOption, LinkOption, client, err, failures, out, print_json, table
from host_sdk.client import NapuClient
from host_sdk.wire.errors import BusyError, ConfigError, NapuTimeoutError, UnavailableError

FOLLOW_MS = 500  # between two questions

NodeArgument = Annotated[str, typer.Argument(help="Address or name of the appliance.", metavar="NODE")]


def console(
    node: NodeArgument,
    link: LinkOption = "auto",
    lab: LabOption = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print the log of an appliance: of its board and of its firmware, over the firmware's restarts."""
    with failures(as_json=as_json), client(link, None, lab) as napu:
        address = find_node(napu, node)
        reader = LogReader(lambda after: napu.control("logs", target=address, after=after))
        _print(reader.read(), as_json=as_json)
        while follow:
            _wait_for_more()
            try:
                events = reader.read()
            except (NapuTimeoutError, UnavailableError, BusyError) as error:
                # Its firmware is being started again, or the whole node is: its log goes on afterwards.
                err.print(f"napu: {error}; going on", style="dim", markup=False)
                continue
            _print(events, as_json=as_json)


def status(node: NodeArgument, link: LinkOption = "auto", lab: LabOption = "", as_json: JsonOption = False) -> None:
    """Print how an appliance is: uptimes, resets by reason, watchdog, temperature, power, throttling."""
    with failures(as_json=as_json), client(link, None, lab) as napu:
        address = find_node(napu, node)
        health = napu.control("health", target=address)
    if as_json:
        print_json({"address": address, **health})
        return
    shown = table(address, "")
    for part, values in health.items():
        for name, value in values.items() if isinstance(values, dict) else ():
            shown.add_row(Text(printable(f"{part}.{name}")), Text(printable(str(value))))
    out.print(shown)


def printable(text: str) -> str:
    """Return a text in which nothing steers the terminal, whatever an appliance says."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def find_node(napu: NapuClient, node: str) -> str:
    """Return the address of an appliance that is given by its address or, where there is a broadcast, its name.

    Raises:
        ConfigError: It is neither.
    """
    try:
        napu.link.parse_address(node)
    except ConfigError as error:
        found = {appliance.name: appliance.address for appliance in napu.discover()}
        if node not in found:
            names = ", ".join(sorted(found)) or "nobody"
            raise ConfigError(f"no appliance is called {node!r} ({names} answered), and: {error}") from None
        return found[node]
    return node


def _print(events: list[LogEvent], *, as_json: bool) -> None:
    for event in events:
        sys.stdout.write((json.dumps(_fields(event)) if as_json else _text(event)) + "\n")
    sys.stdout.flush()


def _fields(event: LogEvent) -> dict[str, Any]:
    if isinstance(event, LogLine):
        return asdict(event)
    return {"lost": event.count} if isinstance(event, Lost) else {"power_cycle": True}


def _text(event: LogEvent) -> str:
    if isinstance(event, LogLine):
        return f"[{event.time_s:12.6f}] {printable(event.text)}"
    return f"[ {event.count} lines are lost ]" if isinstance(event, Lost) else "[ switched on anew ]"


def _wait_for_more() -> None:
    """Sleep until it is time to ask again, but end at once when whoever reads the output has gone."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # errors are reported without being asked for
    if poll.poll(FOLLOW_MS):
        raise BrokenPipeError(errno.EPIPE, "the reader of the output has gone")
