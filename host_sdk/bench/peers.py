"""Peers: inference servers on the host's CPU, asked over gRPC by the Open Inference Protocol v2."""

import json
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from host_sdk.bench.environment import Say, need_libpython, need_program, peer_environment
from host_sdk.bench.h2load import H2Load, post, read_sample
from host_sdk.bench.models import Workload
from host_sdk.bench.process import Child, cpu_share, usage
from host_sdk.bench.system import Load, Sample
from host_sdk.wire.errors import ConfigError, DeviceError

SERVERS = Path(__file__).parent / "servers"
BATCHES = (1, 32)
_START_S = 60.0
_CHECK_S = 120.0
# Triton 2.51 now and then dies of signal 11 as connections close with requests under way, as h2load's do in the end.
_RESTARTS = 3
_DEATH_S = 3.0  # that one may take, as it writes down where it stood
_EDGE_S = 0.1  # at either end of the load: h2load takes a while to start


@dataclass(frozen=True, slots=True)
class Launch:
    """How a peer's server is started.

    Attributes:
        command: What to run.
        environment: Variables that it needs.
    """

    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """What a server is started for.

    Attributes:
        python: Of the peer's environment.
        workload: Whose model it serves.
        directory: For its files; empty.
        ports: Three free ports, the first for gRPC.
    """

    python: Path
    workload: Workload
    directory: Path
    ports: tuple[int, int, int]


class Peer(Protocol):
    """What tells one peer from another."""

    name: str
    locks: tuple[str, ...]
    newest_python: tuple[int, int]

    def prepare(self, python: Path, say: Say) -> None:
        """Finish the peer's environment."""

    def launch(self, place: Place) -> Launch:
        """Write the server's files and return how it is started."""

    def clean(self) -> None:
        """Remove what the server may have left outside of its directory."""


class GrpcServer:
    """A plain synchronous gRPC server in Python, with eight threads."""

    name = "grpc"
    locks: tuple[str, ...] = ("protocol",)
    newest_python = (3, 14)

    def prepare(self, python: Path, say: Say) -> None:
        """Nothing more is needed."""

    def launch(self, place: Place) -> Launch:
        """Return the command; there are no files."""
        model = place.workload.model
        script = str(SERVERS / "grpc_server.py")
        return Launch([str(place.python), script, str(model.path), model.name, str(place.ports[0])])

    def clean(self) -> None:
        """Nothing is left."""


class MlServer:
    """MLServer in one process, without batching, which is its faster setting here."""

    name = "mlserver"
    locks: tuple[str, ...] = ("mlserver",)
    newest_python = (3, 12)

    def prepare(self, python: Path, say: Say) -> None:
        """Nothing more is needed."""

    def launch(self, place: Place) -> Launch:
        """Write settings of the server and the model."""
        model, (grpc, http, metrics) = place.workload.model, place.ports
        settings = {
            "host": "127.0.0.1",
            "grpc_port": grpc,
            "http_port": http,
            "metrics_port": metrics,
            "parallel_workers": 0,
            "debug": False,
            "metrics_endpoint": None,
        }
        runtime = "mlserver_runtime.LiteRtRuntime"
        entry = {"name": model.name, "implementation": runtime, "parameters": {"uri": str(model.path)}}
        (place.directory / "settings.json").write_text(json.dumps(settings))
        (place.directory / "model-settings.json").write_text(json.dumps(entry))
        command = [str(place.python.with_name("mlserver")), "start", str(place.directory)]
        return Launch(command, {"PYTHONPATH": str(SERVERS)})

    def clean(self) -> None:
        """Nothing is left."""


class Triton:
    """Triton with its Python backend and dynamic batching, from the wheel of PyTriton, which brings it for CPUs."""

    name = "triton"
    locks: tuple[str, ...] = ("triton", "tritonserver")
    newest_python = (3, 12)

    def __init__(self) -> None:
        self._libraries = ""
        self._shared_memory = f"napu-bench-{os.getpid()}-"

    def prepare(self, python: Path, say: Say) -> None:
        """Give the backend the stub for this Python, and find the libraries."""
        root = _triton_root(python)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        target = root / "backends" / "python" / "triton_python_backend_stub"
        shutil.copy(root / "python_backend_stubs" / version / target.name, target)
        wheel = root.parents[1] / "nvidia_pytriton.libs"
        self._libraries = f"{wheel}:{need_libpython(say)}"

    def launch(self, place: Place) -> Launch:
        """Write the model repository."""
        model, root = place.workload.model, _triton_root(place.python)
        home = place.directory / model.name
        (home / "1").mkdir(parents=True)
        shutil.copy(SERVERS / "triton_model.py", home / "1" / "model.py")
        shutil.copy(SERVERS / "batched_model.py", home / "1" / "batched_model.py")
        (home / "config.pbtxt").write_text(_triton_config(place))
        grpc, http, _ = place.ports
        command = [
            *(str(root / "bin" / "tritonserver"), f"--model-repository={place.directory}"),
            *(f"--backend-directory={root / 'backends'}", "--allow-gpu-metrics=false", "--allow-metrics=false"),
            *("--grpc-address=127.0.0.1", f"--grpc-port={grpc}", "--http-address=127.0.0.1", f"--http-port={http}"),
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
        ]
        # The backend's Python is isolated; it takes the environment that the first python3 in PATH belongs to.
        path = f"{place.python.parent}:{os.environ.get('PATH', os.defpath)}"
        return Launch(command, {"LD_LIBRARY_PATH": self._libraries, "PATH": path})

    def clean(self) -> None:
        """Remove the shared memory that a server which was killed leaves."""
        for left in Path("/dev/shm").glob(f"{self._shared_memory}*"):  # noqa: S108 - the names are this process's own
            left.unlink(missing_ok=True)


def _triton_root(python: Path) -> Path:
    (root,) = python.parents[1].glob("lib/python3*/site-packages/pytriton/tritonserver")
    return root


def _triton_config(place: Place) -> str:
    workload = place.workload
    dims = {"input": workload.inputs.shape[1:], "output": workload.output_shape}
    tensors = "".join(
        f'{name} [{{ name: "{name}" data_type: {_TRITON_TYPES[dtype]} dims: {list(dims[name])} }}]\n'
        for name, dtype in (("input", workload.inputs.dtype.name), ("output", workload.output_dtype))
    )
    return (
        f'backend: "python"\nmax_batch_size: 32\n{tensors}dynamic_batching {{ }}\n'
        "instance_group [{ kind: KIND_CPU count: 1 }]\n"
        f'parameters {{ key: "model" value: {{ string_value: "{workload.model.path}" }} }}\n'
    )


_TRITON_TYPES = {"int8": "TYPE_INT8", "uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "int32": "TYPE_INT32"}


class PeerSystem:
    """A peer as a system under test.

    Args:
        peer: Which.
        cores: Of the load and of the server.
        say: Called with what is being done.
    """

    batches = BATCHES
    open_loop = False

    def __init__(self, peer: Peer, cores: tuple[int, int], say: Say) -> None:
        self.name = peer.name
        self._peer, self._say = peer, say
        self._load_core, self._server_core = cores
        self._python, self._h2load = Path(), ""
        self._server: Child | None = None
        self._workload: Workload | None = None
        self._port = 0
        self._reply_bytes: dict[int, int] = {}

    def prepare(self) -> None:
        """Get h2load and the peer's environment.

        Raises:
            ConfigError: They cannot be had.
        """
        if sys.version_info[:2] > self._peer.newest_python:
            newest = ".".join(map(str, self._peer.newest_python))
            raise ConfigError(f"{self.name} runs on Python {newest} at most; set up with PYTHON=python{newest}")
        self._h2load = need_program("h2load", "nghttp2-client", self._say)
        self._python = peer_environment(self.name, self._peer.locks, self._say)
        self._peer.prepare(self._python, self._say)

    def start(self, workload: Workload) -> None:
        """Start the server; :meth:`check` waits until it serves."""
        directory = workload.directory / self.name
        shutil.rmtree(directory, ignore_errors=True)  # of one that died
        directory.mkdir()
        ports = _free_ports()
        launch = self._peer.launch(Place(self._python, workload, directory, ports))
        self._workload, self._port = workload, ports[0]
        self._server = Child(self.name, _clean(launch.command, launch.environment), self._server_core, directory)

    def check(self) -> int:
        """Wait until it serves, compare its answers, and write the bodies to post.

        Raises:
            DeviceError: It ended, refuses, or answers otherwise than the model does in process.
        """
        workload, server = self._started()
        task = {
            "port": self._port,
            "model": workload.model.name,
            "inputs": str(workload.inputs_file),
            "expected": [output.hex() for output in workload.expected],
            "batches": BATCHES,
            "body": str(self._body("{batch}")),
            "seconds": _START_S,
        }
        command = _clean([str(self._python), str(SERVERS / "oip_client.py")], {})
        client = Child(f"{self.name}'s client", command, self._load_core)
        try:
            answer = client.ask(task, _CHECK_S)
        except DeviceError as error:
            raise DeviceError(f"{error}\n{self.name}'s log ends:\n{server.tail()}") from None
        finally:
            client.stop()
        self._reply_bytes = {int(batch): size for batch, size in answer["reply_bytes"].items()}
        return len(workload.expected)

    def load(self, load: Load) -> Sample:
        """Have h2load post the prepared request; see the protocol."""
        for restarts in range(_RESTARTS + 1):
            workload, server = self._started()
            try:
                sample = self._post(load)
            except DeviceError as error:
                if not server.ends(_DEATH_S):
                    raise DeviceError(f"{error}\n{self.name}'s log ends:\n{server.tail()}") from None
                if restarts == _RESTARTS:
                    raise DeviceError(server.obituary()) from None
                self._say(f"{self.name} died under the load, with status {server.exit_status()}; starting it again")
                self.stop()
                self.start(workload)
                self.check()
            else:
                break
        return replace(sample, rss_mb=usage(server.pid).rss_mb, restarts=restarts)

    def _post(self, load: Load) -> Sample:
        """Have h2load warm the server up, then load it, while its processor time is watched."""
        workload, server = self._started()
        run = H2Load(self._port, self._body(str(load.batch)), workload.directory / f"{self.name}.log", load)
        post(run.command(self._h2load, load.warmup_s), self._load_core, lambda: 0.0)
        run.log.unlink()  # h2load appends
        output, share = post(
            run.command(self._h2load, load.seconds),
            self._load_core,
            lambda: cpu_share(server.pid, _EDGE_S, load.seconds - 2 * _EDGE_S),
        )
        sample = read_sample(output, run.log.read_text(), load, self._reply_bytes[load.batch])
        return replace(sample, server_cpu_us=share * 1e6 / sample.inferences_per_s)

    def stop(self) -> None:
        """End the server; a second call does nothing."""
        if self._server:
            self._server.stop()
            self._server = None
            self._peer.clean()

    def _body(self, batch: str) -> Path:
        workload, _ = self._started()
        return workload.directory / f"{self.name}-{batch}.grpc"

    def _started(self) -> tuple[Workload, Child]:
        if self._workload is None or self._server is None:
            raise DeviceError(f"{self.name} was not started")
        return self._workload, self._server


def _clean(command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the command line that runs a command with these variables, and without what leads its Python astray."""
    return ["env", "-u", "PYTHONHOME", "-u", "PYTHONPATH", *(f"{k}={v}" for k, v in environment.items()), *command]


def _free_ports() -> tuple[int, int, int]:
    """Return three ports that nobody listens on now."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for each in (one, two, three):
            each.bind(("127.0.0.1", 0))
        first, second, third = (int(each.getsockname()[1]) for each in (one, two, three))
    return first, second, third
