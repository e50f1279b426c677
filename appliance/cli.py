"""``napu-node``: one appliance. A composition root: here the hardware gets its firmware and its factory settings."""

import argparse
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

from appliance.board.attestation import Attestor, Constants, check_constants
from appliance.board.device_key import open_device_key
from appliance.board.flash import Flash
from appliance.board.fuses import Fuses, Lifecycle
from appliance.board.nor import Nor
from appliance.captured import add_capture_options, captured, tell_capture
from appliance.clock import WallClock
from appliance.device import MAX_QUEUED_BYTES, POLL_MODES, Device, DeviceOptions
from appliance.dla.backends import BACKENDS
from appliance.memory import bounded
from appliance.pipelines.manifest import parse_manifest
from appliance.pipelines.package import MANIFEST_NAME, pack_directory
from appliance.profile import Profile, available_profiles, load_profile
from appliance.stopping import OrphanReaper, leave_on_signal, stop_on_signal, stop_with_owner
from firmware.boot.resident import ResidentRom, verifier
from firmware.boot.rom import start
from firmware.boot.rom_digest import rom_digest
from firmware.boot.update import provision as provision_chip
from firmware.boot.user import NOBODY, find_user
from firmware.image import IMAGE_OBJECT, MAX_IMAGE, Policy, build_image
from firmware.image.development import DEVELOPMENT_ROOT_HASH
from firmware.image.keys import KeyKind
from firmware.image.policy import ALL_KINDS
from firmware.services.access import CREDENTIALS_OBJECT, MODE_OBJECT, MUTUAL, OPEN
from host_sdk.wire.errors import ConfigError, DeviceError, NapuError, NotAuthenticatedError
from host_sdk.wire.links.auto import ANY, SPECS, open_link
from host_sdk.wire.links.base import Link

FACTORY_OBJECT = "board/factory"
DEVICE_OBJECT = "board/device"
# In the flash's directory; no object can be named so.
NOR_FILE = "NOR"
NOR_UNFINISHED = "NOR.unfinished~"  # removed where it is found, as every object that was not written to its end
FUSES_FILE = "FUSES"
NOR_BLOCKS = 2 + 3 * 256  # slots of 1 MiB
READY_TIMEOUT_S = 20.0
MAX_CREDENTIAL = 512 * 1024  # bytes of a file of a device's identity
MAX_DLA_THREADS = 64
EXIT_USAGE = 2
EXIT_FAILED = 1
# With threads for the DLA: how soon one that comes back from the model gets the interpreter from a dataplane that looks
# for frames all the time. Python's own 5 ms are many inferences long.
SWITCH_INTERVAL_S = 0.0002

_log = logging.getLogger("napu-node")


def provision(flash: Flash, pipelines: list[Path]) -> None:
    """Give an empty flash what it leaves the factory with: pipelines, and what tells this device from others.

    A flash that was provisioned before is left alone, so that what was installed or removed since stays so.

    Raises:
        NapuError: A pipeline cannot be packed, or the flash is too small.
    """
    present = flash.list()
    if DEVICE_OBJECT not in present:
        flash.write(DEVICE_OBJECT, secrets.token_hex(6).encode())
    if FACTORY_OBJECT in present:
        return
    for directory in pipelines:
        package = pack_directory(directory)
        manifest = parse_manifest((directory / MANIFEST_NAME).read_text(encoding="utf-8"))
        flash.write(f"pipelines/{manifest.name}", package)
    flash.write(FACTORY_OBJECT, b"1")


def provision_access(flash: Flash, mode: str, directory: Path | None) -> str:
    """Write to a flash who may control the device, and the credentials by which it is known.

    Args:
        flash: The device's flash.
        mode: OPEN or MUTUAL.
        directory: Identity of the device, as ``napu ca device`` makes it; None for what the flash holds already.

    Returns:
        The device that the credentials are about; empty where access is open.

    Raises:
        ConfigError: There are no credentials, or they cannot be used.
    """
    flash.keep(MODE_OBJECT, mode.encode())
    if mode == OPEN:
        return ""
    # Here, as certificates take megabytes that an open node can do without.
    from host_sdk.wire.secure.credentials import Credentials

    if directory is not None:
        try:
            names = ("authority.pem", "certificate.pem", "key.pem", "revoked.pem")
            credentials = Credentials(*(_read_start(directory / name) for name in names))
        except OSError as error:
            raise ConfigError(f"{directory} holds no device's identity: {error}; 'napu ca device' makes one") from None
        flash.directory.chmod(0o700)
        flash.keep(CREDENTIALS_OBJECT, credentials.encode())
    elif CREDENTIALS_OBJECT not in flash.list():
        raise ConfigError(
            "access is mutual, and the node has no credentials: give it --credentials DIR, which 'napu ca device' "
            "makes; or let anybody control it with --access open"
        )
    else:
        credentials = Credentials.decode(flash.read(CREDENTIALS_OBJECT))
    credentials.context(server=True)
    try:
        return credentials.trust().device(credentials.own(), time.time()).name
    except NotAuthenticatedError as error:
        raise ConfigError(f"the node's credentials do not count: {error.detail}") from None


def _read_start(path: Path, most: int = MAX_CREDENTIAL) -> bytes:
    """Return a file, or so much of it that it is too long for what it should be, by default a certificate."""
    with path.open("rb") as file:
        return file.read(most)


def authority_of(flash: Flash) -> str:
    """Return the SHA-256, in hex, of the certificate of the authority that a flash's credentials trust.

    Raises:
        ConfigError: There are no credentials, or they cannot be used.
    """
    from host_sdk.wire.secure.credentials import Credentials

    return Credentials.decode(flash.read(CREDENTIALS_OBJECT)).fingerprint().hex()


def configuration(arguments: argparse.Namespace, hardware: Profile, policy: Policy, link: Link) -> dict[str, str]:
    """Return how a node is set up, as its measurement has it: docs/attestation.md says what each fact is."""
    damaged = bool(arguments.faults_in or arguments.faults_out)
    damage = "yes" if damaged else "changeable" if arguments.fault_socket else "no"
    return {
        "access": arguments.access,
        "backend": arguments.backend,
        "dla_threads": str(arguments.dla_threads),
        "frames_captured": "yes" if arguments.capture else "no",
        "frames_damaged": damage,
        "key_kinds": ",".join(sorted(kind.name.lower() for kind in policy.kinds)),
        "link": link.kind,
        "mtu": str(link.mtu),
        "profile": hardware.digest.hex(),
        "revoked": ",".join(str(serial) for serial in sorted(policy.revoked)),
        "root_hash": policy.root_hash.hex(),
    }


def own_id(spec: str, link: Link, flash: Flash) -> str:
    """Return the identity of a device without a certificate; empty where its link's address will do.

    Over UDP many nodes may be bound to the same address, each on a machine of its own, and any interface's may change.
    """
    return flash.read(DEVICE_OBJECT).decode() if link.kind == "udp" or spec.endswith(f":{ANY}") else ""


def factory_pipelines() -> list[Path]:
    """Return the directories of the pipelines that ship with the project."""
    with resources.as_file(resources.files("appliance.models")) as models:
        return sorted(entry.parent for entry in models.glob(f"*/{MANIFEST_NAME}"))


def open_fuses(directory: Path) -> Fuses:
    """Return the fuses of a node; where no root key's hash was blown yet, the published development one is.

    Raises:
        DeviceError: The file cannot be used, or holds a part of another hash.
    """
    fuses = Fuses(directory / FUSES_FILE)
    try:
        blown = fuses.root_key_hash is not None
    except DeviceError:  # by half, as a node was ended in the middle
        blown = False
    if not blown:
        fuses.blow_root_key_hash(DEVELOPMENT_ROOT_HASH)
    return fuses


def fused_policy(fuses: Fuses) -> Policy:
    """Return what a board takes by its fuses; it has no clock.

    Raises:
        DeviceError: They hold no root key's hash.
    """
    root_hash = fuses.root_key_hash
    if root_hash is None:
        raise DeviceError("the fuses hold no root key's hash")
    kinds = ALL_KINDS if fuses.lifecycle is Lifecycle.DEVELOPMENT else frozenset((KeyKind.RELEASE,))
    return Policy(root_hash, revoked=fuses.revoked, kinds=kinds)


def open_chip(flash: Flash, fuses: Fuses, policy: Policy, image: Path | None = None) -> Nor:
    """Return the NOR flash of a node. One that is new gets this installation's image into slot A and as recovery.

    Where an image is named, that goes into slot A.

    A node of before there were slots has its image as an object in flash: that goes into slot A, if the board takes it.

    Raises:
        ConfigError: The image that was named cannot be read.
        DeviceError: The file cannot be used, or the board does not take the image.
    """
    path = flash.directory / NOR_FILE
    if not path.exists():
        # Under another name until it is whole, so that a node that is ended here makes another one.
        with closing(Nor(flash.directory / NOR_UNFINISHED, NOR_BLOCKS)) as chip:
            _fill(chip, flash, fuses, policy, image)
        (flash.directory / NOR_UNFINISHED).replace(path)
        flash.delete(IMAGE_OBJECT)
    return Nor(path, NOR_BLOCKS)


def _fill(chip: Nor, flash: Flash, fuses: Fuses, policy: Policy, image: Path | None) -> None:
    recovery = build_image()
    # Of images that are the same one is verified.
    verify = cache(verifier(policy))
    if image:
        try:
            named = _read_start(image, MAX_IMAGE + 1)
        except OSError as error:
            raise ConfigError(f"no firmware image can be read from {image}: {error.strerror}") from None
        provision_chip(chip, fuses, verify, named, recovery)
        return
    if IMAGE_OBJECT in flash.list():
        try:
            # One byte more than an image can have: an endless one is seen without reading all of it.
            provision_chip(chip, fuses, verify, flash.read(IMAGE_OBJECT, 0, MAX_IMAGE + 1), recovery)
        except DeviceError as error:
            _log.warning("the image in flash is not taken over: %s", error)
        else:
            return
    provision_chip(chip, fuses, verify, recovery, recovery)


def _parser() -> argparse.ArgumentParser:
    # The standard library's parser, as a node's memory counts on a machine that runs many.
    parser = argparse.ArgumentParser(
        prog="napu-node",
        description="Run one appliance until SIGTERM or Ctrl-C.",
        epilog="Exit status: 0 stopped, 1 the link or the hardware failed, 2 wrong arguments.",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--flash", type=Path, help="directory that is the node's flash; by default one that ends with the node")
    option(
        "--link", default="auto", help=f"what carries frames: {', '.join(SPECS)}; IFACE {ANY}: whichever is up (auto)"
    )
    access = "who may control it: those with a certificate, or anybody (mutual)"
    option("--access", default=MUTUAL, choices=(MUTUAL, OPEN), help=access)
    option("--credentials", type=Path, help="the device's identity, from 'napu ca device'; kept in the flash")
    option("--profile", default="napu-s", help=f"hardware: {', '.join(available_profiles())} or a .toml file (napu-s)")
    option("--backend", default="litert", help=f"DLA backend: {', '.join(BACKENDS)} (litert)")
    option("--poll", default="adaptive", help=f"how it waits for frames: {', '.join(POLL_MODES)} (adaptive)")
    threads = "DLA cores that run at once, a thread for each; 1 is on the dataplane's (1)"
    option("--dla-threads", type=_count, default=1, help=threads)
    memory = "MiB that the node may take: what waits in it is bounded accordingly; by default, what its container may"
    option("--memory", type=int, default=0, metavar="MIB", help=memory)
    faults = "damage to do to frames that arrive: loss=5%%,duplicate=2%%,reorder=5%%,delay=1ms,…"
    option("--faults-in", default="", help=faults)
    option("--faults-out", default="", help="damage to do to frames that are sent")
    option("--fault-seed", type=int, default=0, help="seed of the damage: the same frames get the same (0)")
    add_capture_options(parser)
    live = "socket at which the damage can be changed while it runs, as 'napu lab fault' does"
    option("--fault-socket", type=Path, help=live)
    image = "firmware image that a new boot flash gets; by default this installation's"
    option("--firmware", type=Path, metavar="FILE", help=image)
    shut_in = "whom a node that runs as root runs its firmware as: a user's name, or UID:GID (65534:65534)"
    option("--firmware-user", default=f"{NOBODY.uid}:{NOBODY.gid}", metavar="USER", help=shut_in)
    option("--name", default="", help="name for people; the address by default")
    pipeline = "pipeline directory to install into an empty flash, repeatable; by default those shipped"
    option("--pipeline", type=Path, action="append", help=pipeline)
    option("--ready-fd", type=int, default=-1, help="descriptor that gets one line of JSON when the node serves")
    option("--owner-fd", type=int, default=-1, help="pipe to read: the node stops when its other end is closed")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MAX_DLA_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_DLA_THREADS}")
    return int(text)


def node(arguments: argparse.Namespace) -> None:
    """Run one appliance.

    Raises:
        NapuError: An argument is wrong, or the link or the hardware failed.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    hardware, user = load_profile(arguments.profile), find_user(arguments.firmware_user)
    hardware, queued_bytes = bounded(hardware, MAX_QUEUED_BYTES, arguments.memory)
    with ExitStack() as stack:
        directory = arguments.flash or Path(stack.enter_context(TemporaryDirectory(prefix="napu-flash-")))
        directory.mkdir(parents=True, exist_ok=True)
        store = Flash(directory, hardware.limits.flash_bytes)
        clock = WallClock()
        fuses = stack.enter_context(closing(open_fuses(directory)))
        policy = fused_policy(fuses)
        chip = stack.enter_context(closing(open_chip(store, fuses, policy, arguments.firmware)))
        rom = ResidentRom(chip, fuses, policy, partial(start, user=user), clock.now_ns)
        provision(store, arguments.pipeline or factory_pipelines())
        certified = provision_access(store, arguments.access, arguments.credentials)
        _log.log(logging.WARNING if arguments.access == OPEN else logging.INFO, "access: %s", arguments.access)
        choice = open_link(arguments.link, node=True)
        _log.info("link: %s", choice.reason)
        device_id = certified or own_id(arguments.link, choice.link, store)
        key, facts = open_device_key(store), configuration(arguments, hardware, policy, choice.link)
        if certified:
            facts["authority"] = authority_of(store)
        options = DeviceOptions(
            arguments.name,
            arguments.backend,
            arguments.poll,
            device_id,
            dla_threads=arguments.dla_threads,
            mutual=arguments.access == MUTUAL,
            queued_bytes=queued_bytes,
        )
        damaged = _damaged(choice.link, arguments)
        wire, capture = damaged, None
        if arguments.capture:
            wire, capture = captured(damaged, arguments)
            stack.callback(capture.close)
            options = replace(options, tap=capture)
        if arguments.dla_threads > 1:
            sys.setswitchinterval(SWITCH_INTERVAL_S)
        device = Device(hardware, wire, store, rom.launch, clock, options)
        stack.callback(device.close)
        if arguments.fault_socket:
            stack.callback(_control_faults(damaged, arguments, device))
        device.board.attach(rom)
        constants = Constants(str(device.facts()["device"]), rom_digest(), facts)
        check_constants(constants)
        device.board.measure(Attestor(key, constants, lambda: rom.booted, device.pipelines, store, clock))
        if arguments.owner_fd >= 0:
            stop_with_owner(arguments.owner_fd)
        if os.getpid() == 1:
            OrphanReaper(lambda: device.board.firmware_pid).begin()
        tell = partial(tell_capture, capture, device, facts, lambda: rom.booted, {"faults": arguments.fault_seed})
        stack.callback(tell)
        _serve(device, arguments.ready_fd, tell)


def _damaged(link: Link, arguments: argparse.Namespace) -> Link:
    """Return a link with the damage that was asked for, or as it is where there is none and never will be."""
    faults_in, faults_out = arguments.faults_in, arguments.faults_out
    if not (faults_in or faults_out or arguments.fault_socket):
        return link
    # Here, as it takes megabytes that a node without faults can do without.
    from host_sdk.wire.links.faults import parse_faults
    from host_sdk.wire.links.faulty import FaultyLink

    if faults_in or faults_out:
        _log.warning("frames are damaged on purpose: in %s; out %s", faults_in or "not", faults_out or "not")
    seed = arguments.fault_seed
    return FaultyLink(link, parse_faults(faults_out), parse_faults(faults_in), seed, time.monotonic_ns)


def _control_faults(wire: Link, arguments: argparse.Namespace, device: Device) -> Callable[[], None]:
    """Let the damage be changed at a socket; return what ends that."""
    from host_sdk.wire.links.fault_control import FaultControl
    from host_sdk.wire.links.faulty import FaultyLink

    assert isinstance(wire, FaultyLink)  # noqa: S101 - it is damaged or can be, as there is a socket
    texts = (arguments.faults_in, arguments.faults_out)
    return FaultControl(arguments.fault_socket, wire, texts, device.call).close


def _serve(device: Device, ready_fd: int, tell: Callable[[], None]) -> None:
    device.board.start()
    if not device.board.wait_ready(READY_TIMEOUT_S):
        reason = device.board.boot_error or f"not ready within {READY_TIMEOUT_S:g} s"
        _log.error("no firmware: %s; inference goes on without", reason)
    tell()
    _announce(ready_fd, {**device.facts(), "firmware": device.board.firmware_ready})
    stop_on_signal(device.stop)
    device.run()


def _announce(ready_fd: int, facts: dict[str, object]) -> None:
    line = json.dumps(facts)
    if ready_fd < 0:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        return
    with os.fdopen(ready_fd, "w") as pipe:
        pipe.write(line + "\n")


def run(arguments: Sequence[str] | None = None) -> None:
    """Run ``napu-node``; a user's mistake is a sentence, not a traceback."""
    leave_on_signal()
    try:
        node(_parser().parse_args(arguments))
    except ConfigError as error:
        sys.stderr.write(f"napu-node: {error}\n")
        raise SystemExit(EXIT_USAGE) from None
    except (NapuError, OSError) as error:
        sys.stderr.write(f"napu-node: {error}\n")
        raise SystemExit(EXIT_FAILED) from None


if __name__ == "__main__":
    run()
