"""What the board measures and when, and the port by which the firmware asks for quotes; it writes nothing there."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from appliance.board.command import ArgumentError, Command, Port, unpack_argument
from appliance.board.device_key import DeviceKey
from appliance.board.flash import Flash
from appliance.board.measurement import Measurement
from appliance.board.regmap import (
    ATTEST_ARGUMENT,
    ATTEST_COMMAND,
    ATTEST_DATA,
    ATTEST_RESULT,
    ATTEST_STATUS,
    MAX_PART,
    AttestCommand,
    ServiceCommand,
)
from appliance.clock import Clock
from host_sdk.wire.attest.boots import MAX_BOOTS, Boot, BootedImage, decode_boots, encode_boots
from host_sdk.wire.attest.errors import MalformedEvidenceError
from host_sdk.wire.attest.events import DIGEST_SIZE, Event, EventKind, encode_facts
from host_sdk.wire.attest.quote import NONCE_SIZE, Quote
from host_sdk.wire.errors import DeviceError, NoSpaceError

ATTEST_PORT = Port(ATTEST_ARGUMENT, ATTEST_COMMAND, ATTEST_STATUS, ATTEST_RESULT, ATTEST_DATA)
BOOTS_OBJECT = "board/boots"
QUOTE_INTERVAL_NS = 5_000_000  # between two quotes: signing shall never take much of the board's thread
_MS_NS = 1_000_000
_LOAD_EVENTS = 2  # a pipeline and its model


@dataclass(frozen=True, slots=True)
class Constants:
    """What is measured at each boot and does not change while the board is on.

    Attributes:
        device: Identity of the device.
        rom: SHA-256 of the boot ROM's code, 32 bytes.
        configuration: How the board is set up: key to value, printable ASCII.
    """

    device: str
    rom: bytes
    configuration: Mapping[str, str]


class Attestor:
    """Measures boots and pipelines, and signs quotes. Used by the board's thread alone.

    Args:
        key: The device key.
        constants: What is the same at each boot.
        booted: Returns the image that the ROM has chosen at the last boot; None if there was none to start.
        served: Returns the descriptions of the pipelines that the hardware serves.
        flash: Keeps the history of boots.
        clock: For uptime and the rate of quotes; now is power-on.
    """

    def __init__(
        self,
        key: DeviceKey,
        constants: Constants,
        booted: Callable[[], BootedImage | None],
        served: Callable[[], Sequence[Mapping[str, object]]],
        flash: Flash,
        clock: Clock,
    ) -> None:
        self._key, self._constants = key, constants
        self._booted, self._served = booted, served
        self._flash, self._clock = flash, clock
        self._power_on_ns = clock.now_ns()
        self._next_quote_ns = self._power_on_ns
        self._measurement = Measurement()
        self._boots = self._stored_boots()

    def boot(self, epoch: int, reason: int) -> str:
        """Measure a boot, before the firmware can ask anything; return what went wrong, in a sentence, or nothing."""
        boots = [*self._boots, Boot(epoch, reason, self._booted())]
        self._boots = boots[-MAX_BOOTS:]
        self._measurement.begin()
        self._measure_state()
        try:
            self._flash.write(BOOTS_OBJECT, encode_boots(self._boots))
        except (DeviceError, NoSpaceError) as error:
            return f"the history of boots cannot be kept over a loss of power: {error}"
        return ""

    def commands(self) -> dict[int, Command]:
        """Return the commands of the attestation port."""
        return {AttestCommand.QUOTE: self._quote, AttestCommand.LOG: self._log}

    def measured(self, services: Mapping[int, Command]) -> dict[int, Command]:
        """Return the commands of the hardware's services that change what is served, each measured when it is done."""
        load, unload = services[ServiceCommand.LOAD_PIPELINE], services[ServiceCommand.UNLOAD_PIPELINE]

        def load_measured(package: bytes) -> bytes:
            result = load(package)
            self._loaded(msgpack.unpackb(result))
            return result

        def unload_measured(argument: bytes) -> bytes:
            (name,) = unpack_argument(argument, str)
            before = [pipeline for pipeline in self._served() if pipeline["name"] == name]
            result = unload(argument)
            for pipeline in before:
                self._removed(pipeline)
            return result

        return {ServiceCommand.LOAD_PIPELINE: load_measured, ServiceCommand.UNLOAD_PIPELINE: unload_measured}

    def _loaded(self, pipeline: Mapping[str, object]) -> None:
        if self._measurement.room < _LOAD_EVENTS:
            self._restart()
        else:
            self._measure_pipeline(pipeline)

    def _removed(self, pipeline: Mapping[str, object]) -> None:
        if self._measurement.room < 1:
            self._restart()
        else:
            digest, name = bytes.fromhex(str(pipeline["digest"])), str(pipeline["name"])
            self._measurement.extend(Event(EventKind.PIPELINE_REMOVED, digest, {"name": name}))

    def _restart(self) -> None:
        """Begin a new log with what there is now, as the old one is full; its end is the first thing in the new one."""
        full = self._measurement
        event = Event(EventKind.RESTARTED, full.value, {"events": str(len(full.events)), "log": str(full.log)})
        full.begin()
        full.extend(event)
        self._measure_state()

    def _measure_state(self) -> None:
        extend, constants = self._measurement.extend, self._constants
        extend(Event(EventKind.ROM, constants.rom))
        if image := self._booted():
            extend(Event(EventKind.IMAGE, image.digest, image.facts()))
        facts = constants.configuration
        extend(Event(EventKind.CONFIGURATION, hashlib.sha256(encode_facts(facts)).digest(), facts))
        for pipeline in self._served():
            self._measure_pipeline(pipeline)

    def _measure_pipeline(self, pipeline: Mapping[str, Any]) -> None:
        name = str(pipeline["name"])
        package, model = bytes.fromhex(pipeline["digest"]), bytes.fromhex(pipeline["model_sha256"])
        self._measurement.extend(Event(EventKind.PIPELINE, package, {"name": name}))
        self._measurement.extend(Event(EventKind.MODEL, model, {"pipeline": name}))

    def _quote(self, nonce: bytes) -> bytes:
        if len(nonce) != NONCE_SIZE:
            raise ArgumentError(f"a nonce of {len(nonce)} bytes; one has {NONCE_SIZE}")
        now = self._clock.now_ns()
        if now < self._next_quote_ns:
            raise DeviceError(f"a quote is signed every {QUOTE_INTERVAL_NS // _MS_NS} ms at most; ask again")
        self._next_quote_ns = now + QUOTE_INTERVAL_NS
        measurement, boots = self._measurement, encode_boots(self._boots)
        quote = Quote(
            device=self._constants.device,
            nonce=nonce,
            epoch=self._boots[-1].epoch,
            log=measurement.log,
            events=len(measurement.events),
            value=measurement.value,
            boots=hashlib.sha256(boots).digest(),
            boots_size=len(boots),
            uptime_ms=(now - self._power_on_ns) // _MS_NS,
        ).encode()
        return _pack([quote, self._key.sign(quote), self._key.public, boots])

    def _log(self, argument: bytes) -> bytes:
        (after,) = unpack_argument(argument, int)
        page: list[bytes] = []
        size = 0
        for event in self._measurement.events[max(0, after) :]:
            size += len(event)
            if size > MAX_PART:
                break
            page.append(event)
        return _pack([self._measurement.log, page])

    def _stored_boots(self) -> list[Boot]:
        if BOOTS_OBJECT not in self._flash.list():
            return []
        try:
            return list(decode_boots(self._flash.read(BOOTS_OBJECT)))
        except MalformedEvidenceError:
            return []  # it covers fewer boots then, which the quote says


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def check_constants(constants: Constants) -> None:
    """See that a board can measure these.

    Raises:
        DeviceError: A value is of a form that no event or quote has.
    """
    try:
        encode_facts(constants.configuration)
        Quote(constants.device, bytes(NONCE_SIZE), 0, 1, 1, bytes(DIGEST_SIZE), bytes(DIGEST_SIZE), 0, 0).encode()
    except MalformedEvidenceError as error:
        raise DeviceError(f"the board cannot be measured: {error}") from None
