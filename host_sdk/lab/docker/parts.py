"""What a lab of containers is made of: names, labels, command lines, and files that appliances are given."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from docker.types import LogConfig

from host_sdk.lab.docker.engine import LAB_LABEL, NODE_LABEL, ROLE_LABEL, TOPOLOGY_LABEL
from host_sdk.lab.docker.node_command import FILES, FLASH, appliance_files, node_command
from host_sdk.lab.topology import Appliance, Host, Topology
from host_sdk.wire.errors import ConfigError

APPLIANCE: Final = "appliance"
HOST: Final = "host"
TAP: Final = "tap"
_USER: Final = 10001  # of the image
_TMPFS: Final = "size=64m,mode=1777"
MAX_FILES: Final = 256 * 1024 * 1024  # bytes that a lab's files may have


def container_name(lab: str, node: str) -> str:
    """Return what a node's container is called."""
    return f"napu-{lab}-{node}"


def network_name(lab: str) -> str:
    """Return what a lab's network is called."""
    return f"napu-{lab}"


def flash_name(lab: str, node: str) -> str:
    """Return what the volume of an appliance's flash is called."""
    return f"{container_name(lab, node)}-flash"


def files_name(lab: str) -> str:
    """Return what the volume of a lab's files is called."""
    return f"napu-{lab}-files"


def labels(lab: str, node: str = "", role: str = "") -> dict[str, str]:
    """Return the labels of something of a lab."""
    of_node = {NODE_LABEL: node, ROLE_LABEL: role} if node else {}
    return {LAB_LABEL: lab, **of_node}


def network_settings(topology: Topology) -> dict[str, Any]:
    """Return how the network is made; its labels hold the topology, so that no file has to."""
    return {
        "name": network_name(topology.name),
        "driver": "bridge",
        "internal": True,  # nothing of a lab is to be reached from outside, nor the other way round
        "check_duplicate": True,
        "options": {"com.docker.network.driver.mtu": str(topology.mtu)},
        "labels": labels(topology.name) | {TOPOLOGY_LABEL: json.dumps(topology.to_mapping())},
    }


def common_settings(lab: str, node: str, role: str) -> dict[str, Any]:
    """Return how any container of a lab is made."""
    return {
        "name": container_name(lab, node),
        "labels": labels(lab, node, role),
        "cap_drop": ["ALL"],
        "cap_add": ["NET_RAW"],
        "read_only": True,
        "tmpfs": {"/tmp": _TMPFS},  # noqa: S108 - as FAULTS
        "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
    }


def host_settings(topology: Topology, host: Host) -> dict[str, Any]:
    """Return how a host's container is made: it does nothing until commands are run in it."""
    settings = common_settings(topology.name, host.name, HOST)
    settings["tmpfs"] |= {FLASH: "size=1m"}  # in place of the volume that the image would make
    return settings | {
        "command": ["sleep", "infinity"],
        "hostname": host.name,
        "init": True,  # ends at once, and reaps what commands leave
        "healthcheck": {"test": ["NONE"]},
        "network": network_name(topology.name),
        "mac_address": host.mac,
    }


def appliance_settings(topology: Topology, appliance: Appliance) -> dict[str, Any]:
    """Return how an appliance's container is made."""
    volumes = {flash_name(topology.name, appliance.name): {"bind": FLASH, "mode": "rw"}}
    if appliance_files(appliance):
        volumes[files_name(topology.name)] = {"bind": FILES, "mode": "ro"}
    return common_settings(topology.name, appliance.name, APPLIANCE) | {
        "command": node_command(appliance),
        "hostname": appliance.name,
        "volumes": volumes,  # and started again after a failure, from when it serves
        "network": network_name(topology.name),
        "mac_address": appliance.mac,
    }


def packed_files(topology: Topology) -> bytes:
    """Return the files of all appliances as a tar archive for FILES; nothing when there are none.

    Raises:
        ConfigError: One cannot be read, or they are too large together.
    """
    named = [pair for appliance in topology.appliances for pair in appliance_files(appliance)]
    if not named:
        return b""
    buffer = io.BytesIO()
    size = 0
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for here, there in named:
            for path, name in _walk(Path(here), there):
                try:
                    data = path.read_bytes()
                except OSError as error:
                    raise ConfigError(f"lab {topology.name}: {path} cannot be read: {error.strerror}") from None
                size += len(data)
                if size > MAX_FILES:
                    raise ConfigError(f"lab {topology.name}: its files have more than {MAX_FILES} bytes; name fewer")
                entry = tarfile.TarInfo(name)
                entry.size, entry.uid, entry.gid, entry.mode = len(data), _USER, _USER, 0o400
                archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _walk(path: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield the file, or those of the directory, with their names in the archive."""
    if path.is_dir():
        for entry in sorted(path.rglob("*")):
            if entry.is_file():
                yield entry, f"{name}/{entry.relative_to(path).as_posix()}"
    else:
        yield path, name
