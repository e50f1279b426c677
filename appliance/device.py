"""One appliance, wired from its profile: link, dataplane, board."""

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from appliance.board.board import Board
from appliance.board.flash import Flash
from appliance.board.keys import GrantedKeys
from appliance.board.mailbox import Letter, Mailbox
from appliance.board.process import Launcher
from appliance.board.sensors import ThermalModel, thermal_model
from appliance.clock import Clock
from appliance.dataplane.answers import ROWS, AnswerWindows
from appliance.dataplane.cores import Cores, InlineCore, ThreadedCores
from appliance.dataplane.counters import Counters
from appliance.dataplane.energy import HardwareModel
from appliance.dataplane.loop import Dataplane
from appliance.dataplane.queue import JobQueue
from appliance.dataplane.sessions import SessionTable
from appliance.dataplane.state import State, Tap
from appliance.dataplane.table import Loaded, PipelineTable
from appliance.dataplane.tenants import TenantTable
from appliance.dla.backends import load_backend
from appliance.dla.trial import try_model
from appliance.pipelines.compile import compile_pipeline
from appliance.pipelines.manifest import Manifest
from appliance.profile import Profile
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.exchange.reassembly import Reassembler, ReassemblyLimits
from host_sdk.wire.links.base import Link
from host_sdk.wire.message import Message, fragment_size_for
from host_sdk.wire.schema import HEADER_SIZE

if TYPE_CHECKING:  # ciphers take memory that an open appliance can do without
    from appliance.dataplane.grants import GrantTable

# How long the dataplane looks for more frames, in ns, before it sleeps.
POLL_MODES = {"block": 0, "adaptive": 200_000, "busy": float("inf")}
MAX_QUEUED_BYTES = 256 * 1024 * 1024  # memory that the queue of one pipeline may take, if nothing limits the node's


class FirmwareWay:
    """The way from the dataplane to the firmware: the mailbox, and what the board knows of its reader."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self.board: Board | None = None

    @property
    def ready(self) -> bool:
        """Whether the firmware is up."""
        return self.board is not None and self.board.firmware_ready

    @property
    def epoch(self) -> int:
        """Boots of the firmware, modulo 65536."""
        return self.board.epoch if self.board else 0

    @property
    def reply_fd(self) -> int:
        """Descriptor that polls readable when collect has something."""
        return self._mailbox.reply_fd

    def post(self, peer: int, message: Message) -> bool:
        """Put a control message into the mailbox; False when it is full."""
        return self._mailbox.post(Letter(peer, message))

    def collect(self) -> list[tuple[int, Message]]:
        """Return what the firmware wants sent, with its peer."""
        return [(letter.peer, letter.message) for letter in self._mailbox.collect()]


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What a device is besides its profile.

    Attributes:
        name: For people; the MAC or UDP address where it is empty.
        device_id: What tells it from all others; the link's address where it is empty.
        backend: DLA backend, one of dla.base.BACKENDS.
        poll: How the dataplane waits, one of POLL_MODES.
        seed: Of session ids; None takes one from the system.
        dla_threads: DLA cores that run at once; 1 runs batches on the dataplane's own thread, which is best for one
            processor.
        mutual: Whether access is mutual: frames can come sealed, and must where a pipeline does not say otherwise.
        tap: Who is shown what passes within the dataplane; None for nobody.
        queued_bytes: Memory that the requests that wait for one pipeline may take.
    """

    name: str = ""
    backend: str = "litert"
    poll: str = "adaptive"
    device_id: str = ""
    seed: int | None = None
    dla_threads: int = 1
    mutual: bool = False
    tap: Tap | None = None
    queued_bytes: int = MAX_QUEUED_BYTES


class Device:
    """An emulated appliance. It offers the board what ``appliance.board.ports.Hardware`` asks for.

    Args:
        profile: The hardware.
        link: Its port; closed with the device.
        flash: Where the firmware's image and the pipelines are.
        launcher: Starts the firmware; the composition root binds it to the boot ROM.
        clock: Time.
        options: Name, backend and seed.

    Raises:
        ConfigError: The backend is unknown or not installed, or the poll mode is unknown.
    """

    def __init__(
        self,
        profile: Profile,
        link: Link,
        flash: Flash,
        launcher: Launcher,
        clock: Clock,
        options: DeviceOptions | None = None,
    ) -> None:
        self._profile, self._options = profile, options or DeviceOptions()
        counters, tenants, grants = Counters(), TenantTable(profile.tenants), None
        if self._options.mutual:
            link, grants = _sealing(link, counters, tenants, clock)
        self._link = link
        # That of the beginning, whatever address a link that follows its interface comes to.
        self._id = self._options.device_id or f"{link.address:012x}"
        self._loader = load_backend(self._options.backend)
        self._loading = threading.Lock()
        self._mailbox = Mailbox()
        self._way = FirmwareWay(self._mailbox)
        limits = profile.limits
        self._state = State(
            counters=counters,
            sessions=SessionTable(limits.sessions, random.Random(self._options.seed), limits.credits),  # noqa: S311
            answers=AnswerWindows(limits.sessions, limits.session_window, limits.kept_answers_bytes),
            tenants=tenants,
            table=PipelineTable(limits.pipelines),
            reassembler=Reassembler(
                ReassemblyLimits(
                    memory=limits.reassembly_bytes,
                    message=limits.max_message,
                    timeout_ns=limits.reassembly_timeout_ms * 1_000_000,
                )
            ),
            control=self._way,
            frames=link.capacity,
            answer_row=min(ROWS[-1], HEADER_SIZE + fragment_size_for(link.mtu)),
            session_fragments=min(limits.session_fragments, max(1, link.capacity // 2)),
            discovery_per_s=limits.discovery_per_s,
            queue_wait_ns=limits.queue_wait_ms * 1_000_000,
            session_idle_ns=limits.session_idle_s * 1_000_000_000,
            grants=grants,
            tap=self._options.tap,
        )
        linger_ns = POLL_MODES.get(self._options.poll)
        if linger_ns is None:
            raise ConfigError(f"no poll mode is called {self._options.poll}; there are: {', '.join(POLL_MODES)}")
        cores: Cores = InlineCore(clock)
        if self._options.dla_threads > 1:
            cores = ThreadedCores(self._options.dla_threads, clock)
        self._model = HardwareModel(profile)
        self._dataplane = Dataplane(link, clock, self._state, self._model, cores, linger_ns)
        self.board = Board(flash, self._mailbox, self, launcher, clock)
        self._way.board = self.board
        if grants is not None:
            self.board.attach_keys(GrantedKeys(grants, self._dataplane, clock))

    def run(self) -> None:
        """Serve on this thread until :meth:`stop`.

        Raises:
            LinkError: The link is gone.
        """
        self._dataplane.run()

    def step(self) -> bool:
        """Take one batch of frames and do what is due, in place of :meth:`run`; return whether there was anything.

        Raises:
            LinkError: The link is gone.
        """
        return self._dataplane.step()

    def next_timer(self) -> int | None:
        """Return when :meth:`step` has something to do without a frame, ns by the clock; None while it has not."""
        return self._dataplane.next_timer()

    def stop(self) -> None:
        """Make run return; from any thread or signal handler."""
        self._dataplane.stop()

    def call(self, function: Callable[[], None]) -> None:
        """Run a function on the thread that serves, between two batches; from any thread.

        Raises:
            TimeoutError: That thread does not run.
        """
        self._dataplane.call(function)

    def close(self) -> None:
        """Stop the board and give everything back; after run has returned."""
        self.board.stop()
        self._dataplane.close()
        self._mailbox.close()
        self._link.close()

    # ---- what the board asks, from its own thread ----------------------------------------------------------------

    def facts(self) -> dict[str, object]:
        """Return what the device is; constant, but for the address of a link that follows its interface."""
        address = self._link.format_address(self._link.address)
        return {
            "device": self._id,
            "name": self._options.name or address,
            "address": address,
            "mtu": self._link.mtu,
            "profile": self._profile.name,
            "credits": self._profile.limits.credits,
            "link": self._link.kind,
            "pid": os.getpid(),
        }

    def counters(self) -> dict[str, int]:
        """Return a snapshot of the counters by name, those of the link among them."""
        link = self._dataplane.call(self._link.statistics)
        link_counters = {
            "link_rx_frames": link.rx_frames,
            "link_rx_bytes": link.rx_bytes,
            "link_tx_frames": link.tx_frames,
            "link_tx_bytes": link.tx_bytes,
            "link_losses": link.losses,
            "link_outage_ms": link.outage_ns // 1_000_000,
            **{f"link_rx_{reason}": count for reason, count in link.rx_drops.items()},
            **{f"link_tx_{reason}": count for reason, count in link.tx_drops.items()},
        }
        waiting = sum(len(loaded.queue) for loaded in self._state.table)
        state = {
            "sessions": len(self._state.sessions),
            "waiting": waiting,
            "reassembling": len(self._state.reassembler),
            "reassembly_bytes": self._state.reassembler.memory,
            "keys": self._state.grants.keys if self._state.grants else 0,
        }
        kept = {"answers_kept_bytes": self._state.answers.held, "collecting": self._dataplane.collecting}
        return {**self._state.counters.snapshot(), **state, **kept, **link_counters}

    def thermal(self) -> ThermalModel:
        """Return what the board's temperature depends on."""
        return thermal_model(self._profile)

    def energy_nj(self) -> int:
        """Return the energy, in nJ, that was counted for requests since power-on."""
        return self._state.counters.energy_nj

    def set_dla_rate(self, percent: int) -> None:
        """Let the DLA run at a rate of 1 to 100 percent."""
        self._model.set_dla_rate(percent)
        # What the dataplane remembers of costs is of the rate until now. The table changes at the word of the board's
        # thread alone, which is this one.
        self._state.table.version += 1

    def load_pipeline(self, package: bytes) -> dict[str, object]:
        """Compile a package and serve it, in place of one of the same name; return its description.

        Raises:
            ConfigError: It cannot be served; whatever had its name still is.
        """
        with self._loading:
            compiled = compile_pipeline(package, 0, self._loader, self._profile, self._try)
            old = self._state.table.named(compiled.manifest.name)
            sealed = self._demands_seal(compiled.manifest)
            pipeline = replace(compiled, handle=self._state.table.next_handle(old))
            depth = max(
                1, min(self._profile.limits.queue_depth, self._options.queued_bytes // max(1, pipeline.max_body))
            )
            more = range(1, self._options.dla_threads)
            others = tuple(replace(pipeline, accelerator=pipeline.accelerator.copy()) for _ in more)
            weights = self._state.tenants.weights
            new = Loaded(pipeline, JobQueue(depth, pipeline.input_size, weights), others, sealed)
            self._dataplane.call(lambda: self._replace(old, new))
        return new.description()

    def _demands_seal(self, manifest: Manifest) -> bool:
        """Return whether a pipeline's requests have to come sealed.

        Raises:
            ConfigError: They have to, and nobody has keys here.
        """
        if manifest.sealed and not self._options.mutual:
            raise ConfigError(
                f"pipeline {manifest.name} takes sealed frames alone, and with open access nobody has keys; run the "
                "appliance with --access mutual, or take sealed = true out of the manifest"
            )
        return self._options.mutual if manifest.sealed is None else manifest.sealed

    def _try(self, model: bytes, max_batch: int) -> int:
        return try_model(model, self._options.backend, max_batch)

    def _replace(self, old: Loaded | None, new: Loaded) -> None:
        if old:
            self._dataplane.withdraw(old)
        self._state.table.insert(new)

    def unload_pipeline(self, name: str) -> bool:
        """Serve a pipeline no longer; return whether there was one of this name."""
        with self._loading:
            loaded = self._state.table.named(name)
            if loaded is None:
                return False
            self._dataplane.call(lambda: self._dataplane.withdraw(loaded))
            return True

    def pipelines(self) -> list[dict[str, object]]:
        """Return the descriptions of all pipelines that are served."""
        return [loaded.description() for loaded in self._state.table]


def _sealing(link: Link, counters: Counters, tenants: TenantTable, clock: Clock) -> "tuple[Link, GrantTable]":
    """Return a link that opens and seals frames, and whom its keys are granted to."""
    from appliance.dataplane.grants import GrantTable
    from host_sdk.wire.sealed.keys import KeyRing
    from host_sdk.wire.sealed.link import SealedLink

    keys = KeyRing()
    return SealedLink(link, keys, counters, clock.now_ns, responder=True), GrantTable(keys, tenants)
