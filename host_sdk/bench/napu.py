"""Appliances of this project as systems under test: in a lab over Ethernet, or over UDP on loopback."""

import os
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from host_sdk.bench.models import Workload
from host_sdk.bench.pinned import pinned
from host_sdk.bench.process import Child, cpu_share, usage
from host_sdk.bench.system import Load, Quantiles, Sample
from host_sdk.lab.capability import capability
from host_sdk.lab.file_format import DEFAULT_MTU
from host_sdk.lab.lab import Lab
from host_sdk.lab.topology import Appliance, Topology, default_mac
from host_sdk.wire.errors import DeviceError, LinkPrivilegeError

PROFILE = "napu-s"
_NAME = "napu1"
_START_S = 30.0
_CHECK_S = 60.0
_EDGE_S = 0.02  # between the load's clock and ours


class NapuSystem:
    """One appliance with one pipeline, and the load beside it.

    Args:
        link: What carries frames: xdp or packet in a lab, or udp on loopback.
        cores: Of the load and of the appliance.
        mtu: Bytes of the largest PDU on the lab's cables; over UDP it is the link's own.
    """

    batches = (1,)
    open_loop = True

    def __init__(self, link: str, cores: tuple[int, int], mtu: int = DEFAULT_MTU) -> None:
        self.name = f"napu-{link}"
        self._link, self._mtu = link, mtu
        self._load_core, self._server_core = cores
        self._stack = ExitStack()
        self._load: Child | None = None
        self._workload: Workload | None = None
        self._pid = 0

    def prepare(self) -> None:
        """See whether a lab can be had.

        Raises:
            LinkPrivilegeError: It cannot.
        """
        allowed = capability()
        if self._link != "udp" and allowed.kind == "none":
            raise LinkPrivilegeError(allowed.reason)
        if self._link == "xdp" and allowed.kind != "root":
            raise LinkPrivilegeError("only root may load XDP programs here; run as root for napu-xdp")

    def start(self, workload: Workload) -> None:
        """Start the appliance, and the load's process, which finds it."""
        directory = workload.directory / self.name
        directory.mkdir()
        pipeline = workload.model.write_pipeline(directory)
        common = ["--access", "open", "--profile", PROFILE, "--pipeline", str(pipeline)]
        command = [sys.executable, "-m", "appliance.cli", *common]
        with ExitStack() as stack:
            if self._link == "udp":
                load = self._start_on_loopback(stack, command, workload)
            else:
                load = self._start_in_lab(stack, command, workload)
            self._load = Child(f"the load on {self.name}", load, self._load_core)
            stack.callback(self._load.stop)
            self._load.receive(_START_S)
            self._stack = stack.pop_all()
        self._workload = workload

    def _start_in_lab(self, stack: ExitStack, command: list[str], workload: Workload) -> list[str]:
        inside = ["--flash", "{flash}", "--ready-fd", "{ready_fd}", "--name", _NAME, "--link", f"{self._link}:eth0"]
        node = Appliance(_NAME, default_mac(1), PROFILE, command=tuple(pinned(self._server_core, [*command, *inside])))
        topology = Topology(
            f"bench-{os.getpid()}-{self._link}", (node,), mtu=self._mtu, link=self._link, cabling="direct"
        )
        lab = stack.enter_context(Lab.up(topology, timeout_s=_START_S))
        self._pid = lab.status().appliances[0].pid
        return lab.inside(topology.host.name, load_command(f"{self._link}:eth0", workload.model.name))

    def _start_on_loopback(self, stack: ExitStack, command: list[str], workload: Workload) -> list[str]:
        # Its standard input is the pipe whose end tells it that its owner is gone.
        node = Child(self.name, [*command, "--link", "udp:127.0.0.1:0", "--owner-fd", "0"], self._server_core)
        stack.callback(node.stop)
        address = str(node.receive(_START_S)["address"])
        self._pid = node.pid
        return load_command("udp:127.0.0.1:0", workload.model.name, address)

    def check(self) -> int:
        """Compare answers; see the protocol."""
        workload, load = self._started()
        expected = [output.hex() for output in workload.expected]
        task = {"op": "check", "inputs": str(workload.inputs_file), "expected": expected}
        return int(load.ask(task, _CHECK_S)["checked"])

    def load(self, load: Load) -> Sample:
        """Put a load on the appliance; see the protocol."""
        _, process = self._started()
        process.send({"op": "load", **asdict(load)})
        share = cpu_share(self._pid, load.warmup_s + _EDGE_S, load.seconds - 2 * _EDGE_S)
        sample = read_sample(process.receive(_CHECK_S))
        cpu_us = share * 1e6 / sample.inferences_per_s
        return replace(sample, server_cpu_us=cpu_us, rss_mb=usage(self._pid).rss_mb)

    def stop(self) -> None:
        """End the load and the appliance; a second call does nothing."""
        self._stack.close()

    def _started(self) -> tuple[Workload, Child]:
        if self._workload is None or self._load is None:
            raise DeviceError(f"{self.name} was not started")
        return self._workload, self._load


def load_command(link: str, pipeline: str, *targets: str) -> list[str]:
    """Return the command line of the load's process."""
    return [sys.executable, "-m", "host_sdk.bench.load", link, pipeline, *targets]


def read_sample(answer: dict[str, Any]) -> Sample:
    """Return the sample that the load's process tells of.

    Raises:
        DeviceError: Nothing was answered.
    """
    if not answer["requests"]:
        raise DeviceError(f"no request was answered, {answer['lost']} were lost")
    return Sample(
        inferences_per_s=answer["inferences_per_s"],
        quantiles=Quantiles(*answer["quantiles_us"]),
        requests=answer["requests"],
        lost=answer["lost"],
        sent_again=answer["sent_again"],
    )
