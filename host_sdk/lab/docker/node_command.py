"""What an appliance runs in a container, and what containers cannot have; without the Docker SDK."""

from typing import Final

from host_sdk.lab.file_format import MUTUAL
from host_sdk.lab.topology import Appliance, Topology
from host_sdk.wire.errors import ConfigError

FLASH: Final = "/flash"
FILES: Final = "/lab"  # where the files of a lab are, read-only
FAULTS: Final = "/tmp/faults"  # noqa: S108 - a file system of the container's own
LINK: Final = "packet:any"  # followed when the container's interface comes back under another name


def check_possible(topology: Topology) -> None:
    """Refuse what containers cannot have.

    Raises:
        ConfigError: The topology has some of that.
    """
    what = f"lab {topology.name} as containers"
    if topology.cabling != "switch":
        raise ConfigError(f"{what}: they are joined by a switch; leave cabling out, or use '--driver netns'")
    if topology.link == "xdp":
        raise ConfigError(
            f"{what}: XDP needs capabilities that they are not given; use link auto or packet, or '--driver netns'"
        )
    for node in topology.nodes:
        if node.mtu and node.mtu != topology.mtu:
            raise ConfigError(f"{what}: all cables have the same mtu; leave that of {node.name} out")
    for appliance in topology.appliances:
        if appliance.command:
            raise ConfigError(f"{what}: they run the image's napu-node; leave the command of {appliance.name} out")


def appliance_files(appliance: Appliance) -> list[tuple[str, str]]:
    """Return the files and directories that an appliance is given: here, and below FILES there."""
    named = [(path, f"pipelines/{index}") for index, path in enumerate(appliance.pipelines)]
    named += [(appliance.firmware, "firmware.img")] if appliance.firmware else []
    named += [(appliance.credentials, "credentials")] if appliance.credentials else []
    named += [(appliance.profile, "profile.toml")] if appliance.profile.endswith(".toml") else []
    return [(here, f"{appliance.name}/{there}") for here, there in named]


def node_command(appliance: Appliance, link: str = LINK, files: dict[str, str] | None = None) -> list[str]:
    """Return the command line of an appliance in its container.

    Args:
        appliance: The appliance.
        link: What carries its frames.
        files: Where there is what the topology names here; by default as :func:`appliance_files` puts it.
    """
    there = files or {here: f"{FILES}/{name}" for here, name in appliance_files(appliance)}
    command = ["napu-node", "--link", link, "--flash", FLASH, "--access", appliance.access, "--name", appliance.name]
    command += ["--profile", there.get(appliance.profile, appliance.profile)]
    for pipeline in appliance.pipelines:
        command += ["--pipeline", there[pipeline]]
    if appliance.firmware:
        command += ["--firmware", there[appliance.firmware]]
    if appliance.access == MUTUAL:
        command += ["--credentials", there[appliance.credentials]]
    command += ["--faults-in", appliance.faults_in, "--faults-out", appliance.faults_out]
    command += ["--fault-seed", str(appliance.fault_seed), "--fault-socket", FAULTS]
    return [*command, *appliance.arguments]
