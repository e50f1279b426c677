"""A lab as a file for other tools: Docker Compose, and containerlab. Both run the image of the labs of containers."""

import os
from pathlib import Path
from typing import Any, Final

import yaml

from host_sdk.lab.docker.address import image_name
from host_sdk.lab.docker.node_command import FLASH, LINK, appliance_files, check_possible, node_command
from host_sdk.lab.topology import Appliance, Topology
from host_sdk.wire.errors import ConfigError

_BRIDGE_PORT: Final = "port"
_LINUX_NAME: Final = 15  # characters of an interface's name


def compose(topology: Topology, directory: Path) -> str:
    """Return a lab as a compose file.

    Args:
        topology: The lab.
        directory: Where the file will be: paths are relative to it.

    Raises:
        ConfigError: Containers cannot have what the topology says.
    """
    check_possible(topology)
    common = {"image": image_name(), "cap_drop": ["ALL"], "cap_add": ["NET_RAW"], "read_only": True}
    services: dict[str, Any] = {}
    for host in topology.hosts:
        services[host.name] = common | {
            "command": ["sleep", "infinity"],
            "init": True,
            "healthcheck": {"disable": True},
            "tmpfs": ["/tmp:size=64m,mode=1777", f"{FLASH}:size=1m"],  # noqa: S108 - the container's own
            "mac_address": host.mac,
            "networks": ["lab"],
        }
    for appliance in topology.appliances:
        binds = [f"{here}:{there}:ro" for here, there in _files(appliance, directory).items()]
        services[appliance.name] = common | {
            "command": [part.replace("$", "$$") for part in _command(appliance, LINK)],
            "restart": "on-failure",
            "tmpfs": ["/tmp:size=64m,mode=1777"],  # noqa: S108 - the container's own
            "mac_address": appliance.mac,
            "networks": ["lab"],
            "volumes": [f"{appliance.name}-flash:{FLASH}", *binds],
        }
    network = {
        "driver": "bridge",
        "internal": True,
        "driver_opts": {"com.docker.network.driver.mtu": str(topology.mtu)},
    }
    document = {
        "name": f"napu-{topology.name}",
        "services": services,
        "networks": {"lab": network},
        "volumes": {f"{appliance.name}-flash": {} for appliance in topology.appliances},
    }
    return f"# Lab {topology.name}, made by 'napu lab export --compose': docker compose up\n{_yaml(document)}"


def containerlab(topology: Topology, directory: Path) -> str:
    """Return a lab as a topology of containerlab; its switch is a bridge of the machine that has to be there.

    Args:
        topology: The lab.
        directory: Where the file will be: paths are relative to it.

    Raises:
        ConfigError: Containers cannot have what the topology says.
    """
    check_possible(topology)
    bridge = f"napu-{topology.name}"[:_LINUX_NAME].rstrip("-")
    nodes: dict[str, Any] = {bridge: {"kind": "bridge"}}
    links = []
    for index, node in enumerate(topology.nodes):
        # No management network: what the link finds is the interface at the switch.
        settings: dict[str, Any] = {"kind": "linux", "image": image_name(), "network-mode": "none"}
        if isinstance(node, Appliance):
            settings["cmd"] = " ".join(_quoted(part) for part in _command(node, LINK))
            settings["binds"] = [f"{here}:{there}:ro" for here, there in _files(node, directory).items()]
            settings["restart-policy"] = "on-failure"
        else:
            settings["cmd"] = "sleep infinity"
        nodes[node.name] = {key: value for key, value in settings.items() if value}
        far = {"node": bridge, "interface": f"{_BRIDGE_PORT}{index}"}
        near = {"node": node.name, "interface": "eth0", "mac": node.mac}
        links.append({"type": "veth", "endpoints": [near, far], "mtu": topology.mtu})
    document = {"name": topology.name, "topology": {"nodes": nodes, "links": links}}
    return (
        f"# Lab {topology.name}, made by 'napu lab export'. Its switch is a bridge that has to be there:\n"
        f"#   ip link add {bridge} type bridge mcast_snooping 0 && ip link set {bridge} mtu {topology.mtu} up\n"
        f"#   containerlab deploy --topo FILE\n{_yaml(document)}"
    )


def write(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _files(appliance: Appliance, directory: Path) -> dict[str, str]:
    """Return where an appliance's files are, seen from the directory, and where they are in its container."""
    return {_relative(here, directory): f"/lab/{name.partition('/')[2]}" for here, name in appliance_files(appliance)}


def _command(appliance: Appliance, link: str) -> list[str]:
    there = {here: f"/lab/{name.partition('/')[2]}" for here, name in appliance_files(appliance)}
    return node_command(appliance, link, there)


def _relative(path: str, directory: Path) -> str:
    found = os.path.relpath(Path(path).absolute(), directory.absolute())
    return found if found.startswith("..") else f"./{found}"


def _quoted(part: str) -> str:
    """Return an argument as containerlab, which splits like a shell, takes it for one."""
    plain = part and all(letter.isalnum() or letter in "-_./:=,%+" for letter in part)
    return part if plain else "'" + part.replace("'", "'\"'\"'") + "'"


class _Dumper(yaml.SafeDumper):
    """Writes the same list twice where it is there twice, for people to read."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML calls it so
        return True


def _yaml(document: dict[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120, allow_unicode=True)
