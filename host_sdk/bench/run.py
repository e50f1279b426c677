"""The benchmark itself: systems started, checked and loaded, one model after the other."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np

from host_sdk.bench.environment import Say
from host_sdk.bench.inprocess import BATCHES, InProcess
from host_sdk.bench.machine import describe_machine
from host_sdk.bench.models import Model, Workload, make_inputs
from host_sdk.bench.napu import NapuSystem
from host_sdk.bench.options import Chosen
from host_sdk.bench.peers import GrpcServer, MlServer, Peer, PeerSystem, Triton
from host_sdk.bench.plan import CONCURRENCIES, Point, Step, points, schedule
from host_sdk.bench.report import Repeat, Report, Row
from host_sdk.bench.system import Load, System
from host_sdk.wire.errors import ConfigError, NapuError

LIMIT = "inprocess"
APPLIANCES = ("napu-xdp", "napu-packet", "napu-udp")
PEERS: dict[str, Callable[[], Peer]] = {"triton": Triton, "grpc": GrpcServer, "mlserver": MlServer}
SYSTEMS = (LIMIT, *APPLIANCES, *PEERS)
_MAX_WARMUP_S = 0.7
_LIMIT_PART = 3  # the limit beside a load is measured for so small a part of the load's time
_START_S = 3.0  # that a system takes to start and be checked, about


def make_system(name: str, chosen: Chosen, cores: tuple[int, int], say: Say) -> System:
    """Return a system by name.

    Args:
        name: One of SYSTEMS but the limit.
        chosen: What was asked for.
        cores: Of the load and of the server.
        say: Called with what is being done.

    Raises:
        ConfigError: There is none of that name.
    """
    if name in APPLIANCES:
        return NapuSystem(name.removeprefix("napu-"), cores, chosen.mtu)
    if name in PEERS:
        return PeerSystem(PEERS[name](), cores, say)
    raise ConfigError(f"no system is called {name!r}; there are {', '.join(SYSTEMS)}")


class Run:
    """One run of the benchmark.

    Args:
        models: To measure, in this order.
        chosen: What to measure, and how.
        cores: Of the load and of the server.
        say: Called with what is being done, in a sentence.

    Raises:
        ConfigError: A system's name is unknown.
    """

    def __init__(self, models: Sequence[Model], chosen: Chosen, cores: tuple[int, int], say: Say) -> None:
        self._models, self._chosen, self._cores, self._say = models, chosen, cores, say
        self._names = chosen.systems or ((LIMIT, *APPLIANCES) if chosen.quick else SYSTEMS)
        self._wanted = [make_system(name, chosen, cores, say) for name in self._names if name != LIMIT]
        self._rows: dict[tuple[str, str, Point], Row] = {}
        self._verified: dict[str, dict[str, int]] = {}
        self._left_out: dict[str, str] = {}
        self._failed: dict[str, str] = {}

    def run(self) -> Report:
        """Measure everything.

        Raises:
            NapuError: A system that was asked for by name cannot be had.
        """
        systems = self._prepare()
        self._say(f"this takes about {self._minutes(systems):.0f} minutes")
        machine = describe_machine(self._cores)
        for model in self._models:
            with tempfile.TemporaryDirectory(prefix="napu-bench-") as directory, ExitStack() as stack:
                limit = InProcess(model.path, self._cores[1])
                stack.callback(limit.stop)
                workload = self._workload(model, limit, Path(directory))
                running = [system for system in systems if self._start(stack, system, workload)]
                self._measure(model, limit, running)
        parameters = {**asdict(self._chosen), "models": [model.name for model in self._models]}
        return Report(machine, parameters, list(self._rows.values()), self._verified, self._left_out, self._failed)

    def _minutes(self, systems: Sequence[System]) -> float:
        """Return about how long it will take."""
        chosen = self._chosen
        loads = sum(len(points(system, quick=chosen.quick)) for system in systems)
        one = chosen.seconds + self._warmup_s + len(BATCHES) * chosen.seconds / _LIMIT_PART
        limits = len(BATCHES) * chosen.seconds
        return len(self._models) * (chosen.repeats * (loads * one + limits) + len(systems) * _START_S) / 60

    @property
    def _warmup_s(self) -> float:
        return min(_MAX_WARMUP_S, self._chosen.seconds / 2)

    def _prepare(self) -> list[System]:
        """Return the systems that can be had; of a quick run's own choice, the first."""
        ready: list[System] = []
        for system in self._wanted:
            try:
                system.prepare()
            except NapuError as error:
                if self._chosen.systems:
                    raise
                self._left_out[system.name] = str(error)
                self._say(f"{system.name} is left out: {error}")
            else:
                ready.append(system)
                if self._chosen.quick and not self._chosen.systems:
                    break
        return ready

    def _workload(self, model: Model, limit: InProcess, directory: Path) -> Workload:
        inputs = make_inputs(model, limit.tensors["input"], self._chosen.seed)
        file = directory / f"{model.name}.npy"
        np.save(file, inputs)
        output = limit.tensors["output"]
        return Workload(model, inputs, limit.outputs(file), tuple(output["shape"]), output["dtype"], directory)

    def _start(self, stack: ExitStack, system: System, workload: Workload) -> bool:
        """Start and check a system; return whether it can be measured."""
        self._say(f"{workload.model.name}: starting {system.name} and comparing its outputs")
        stack.callback(system.stop)
        try:
            system.start(workload)
            self._verified.setdefault(workload.model.name, {})[system.name] = system.check()
        except NapuError as error:
            self._fail(system, workload.model, error)
            system.stop()
            return False
        return True

    def _measure(self, model: Model, limit: InProcess, systems: Sequence[System]) -> None:
        """Measure systems that run; one that fails is not asked again."""
        for repeat in range(self._chosen.repeats):
            if LIMIT in self._names:
                self._measure_limit(model, limit)
            for step in schedule(systems, repeat, quick=self._chosen.quick):
                if _key(step.system, model) not in self._failed:
                    self._step(model, limit, step)

    def _measure_limit(self, model: Model, limit: InProcess) -> None:
        samples = [limit.run(batch, self._chosen.seconds) for batch in BATCHES]
        rates = [sample.inferences_per_s for sample in samples]
        for batch, sample in zip(BATCHES, samples, strict=True):
            self._add(LIMIT, model, Point("closed", 1, batch=batch), Repeat(sample, rates[0], rates[1]))

    def _step(self, model: Model, limit: InProcess, step: Step) -> None:
        """Measure one point, with the limit just before it."""
        self._say(f"{model.name}: {step.system.name}, {step.point.description}, repeat {step.repeat + 1}")
        rates = [limit.run(batch, self._chosen.seconds / _LIMIT_PART).inferences_per_s for batch in BATCHES]
        load = self._load(model, step)
        try:
            sample = step.system.load(load)
        except NapuError as error:
            self._fail(step.system, model, error)
        else:
            self._add(step.system.name, model, step.point, Repeat(sample, rates[0], rates[1], load.rate_per_s))

    def _load(self, model: Model, step: Step) -> Load:
        point, chosen, rate = step.point, self._chosen, 0.0
        if point.mode == "open":
            saturated = self._rows[step.system.name, model.name, Point("closed", CONCURRENCIES[-1])]
            rate = point.fraction * saturated.repeats[-1].sample.inferences_per_s
        return Load(
            mode=point.mode,
            concurrency=point.concurrency,
            rate_per_s=rate,
            batch=point.batch,
            flags=point.flags,
            warmup_s=self._warmup_s,
            seconds=chosen.seconds,
            seed=chosen.seed + step.repeat,
        )

    def _add(self, system: str, model: Model, point: Point, repeat: Repeat) -> None:
        key = (system, model.name, point)
        self._rows.setdefault(key, Row(system, model.name, point)).repeats.append(repeat)

    def _fail(self, system: System, model: Model, error: NapuError) -> None:
        self._failed[_key(system, model)] = str(error)
        self._say(f"{_key(system, model)} failed: {error}")


def _key(system: System, model: Model) -> str:
    return f"{system.name} on {model.name}"
