"""``napu attest``: what runs on an appliance, signed by it, and compared with a reference."""

import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from firmware.image.development import DEVELOPMENT_POLICY
from firmware.image.files import read_bounded
from firmware.image.keys import read_public_pem, root_hash
from firmware.image.policy import Policy, parse_policy, parse_root_hash
from firmware.image.reference import MAX_REFERENCE, verify_reference
from host_sdk.attestation import new_nonce
from host_sdk.cli.manage import NodeArgument, find_node, printable
from host_sdk.cli.output import (
    EXIT_FAILED,
    IdentityOption,
    JsonOption,
    LabOption,
    LinkOption,
    client,
    failures,
    out,
    print_json,
    table,
)
from host_sdk.wire.attest.boots import Boot
from host_sdk.wire.attest.compare import OPEN, Finding, Verdict, compare
from host_sdk.wire.attest.evidence import PREFIX_SIZE, Claims, Explanation, check_evidence, explain
from host_sdk.wire.attest.quote import KEY_SIZE
from host_sdk.wire.attest.reference import Reference
from host_sdk.wire.errors import ConfigError

EXIT_NOT_COMPARED = 4
MAX_TEXT_FILE = 64 * 1024  # bytes of a key or policy

_TRAILER = re.compile(rf"(\d{{1,5}}):([0-9a-f]{{{2 * PREFIX_SIZE}}})")
_STYLES = {Verdict.GOOD: "green", Verdict.NOT_COMPARED: "yellow", Verdict.DEVICE_KEY_NOT_PINNED: "yellow"}

ReferenceOption = Annotated[
    Path | None, typer.Option("--reference", help="Reference manifest to compare with, from napu-fw reference.")
]
RootOption = Annotated[
    str, typer.Option("--root", help="Root key (.pub) that vouches for it, or its hash; by default the development's.")
]
PolicyOption = Annotated[
    Path | None, typer.Option("--policy", help="TOML file of root key, kinds and revoked numbers, as for napu-fw.")
]
SequenceOption = Annotated[int, typer.Option("--sequence", min=0, help="Lowest sequence number of a reference.")]
KeyOption = Annotated[str, typer.Option("--device-key", help="Public key that the device must have, 64 hex digits.")]
ExplainOption = Annotated[
    str, typer.Option("--explain", help="Say what made an answer: EPOCH:DIGEST, as infer --json has them.")
]


@dataclass(frozen=True, slots=True)
class _Asked:
    reference: Reference | None
    device_key: bytes | None
    trailer: tuple[int, bytes] | None


def attest(
    node: NodeArgument,
    reference: ReferenceOption = None,
    root: RootOption = "",
    policy: PolicyOption = None,
    sequence: SequenceOption = 0,
    device_key: KeyOption = "",
    explain_option: ExplainOption = "",
    link: LinkOption = "auto",
    lab: LabOption = "",
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have an appliance prove what runs on it, and compare that with a reference.

    Exit status 0: all of it is in the reference, and so is the device's key or it was given. 1: something is not, or
    the proof does not hold. 4: no reference was given, or nothing vouches for the device's key.
    """
    with failures(as_json=as_json):
        asked = _Asked(
            _reference(reference, root, policy, sequence) if reference else None,
            _device_key(device_key) if device_key else None,
            _trailer(explain_option) if explain_option else None,
        )
        with client(link, None, lab, identity=identity) as napu:
            address, nonce = find_node(napu, node), new_nonce()
            claims = check_evidence(napu.attest(address, nonce), nonce)
            proven = napu.proven_device(address)
        findings = compare(claims, asked.reference, asked.device_key, proven)
        explained = explain(claims, *asked.trailer) if asked.trailer else None
        if explained:
            findings += _explained(explained, asked.reference)
    if as_json:
        print_json(_as_json(address, claims, findings, explained))
    else:
        _print(address, claims, findings, asked)
    verdicts = {finding.verdict for finding in findings} - {Verdict.GOOD}
    if verdicts:
        raise typer.Exit(EXIT_NOT_COMPARED if verdicts <= OPEN else EXIT_FAILED)


def _reference(path: Path, root: str, policy_path: Path | None, sequence: int) -> Reference:
    try:
        policy = _policy(root, policy_path)
        data = read_bounded(path, MAX_REFERENCE)
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{policy_path} is no text") from None
    return verify_reference(data, policy, sequence)


def _policy(root: str, path: Path | None) -> Policy:
    policy = DEVELOPMENT_POLICY
    if path:
        policy = parse_policy(read_bounded(path, MAX_TEXT_FILE).decode())
    if root:
        named = Path(root)
        hashed = root_hash(read_public_pem(read_bounded(named, MAX_TEXT_FILE))) if named.is_file() else None
        policy = replace(policy, root_hash=hashed or parse_root_hash(root))
    return policy if policy.now is not None else replace(policy, now=int(time.time()))


def _device_key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise ConfigError(f"--device-key is not {2 * KEY_SIZE} hex digits")
    return key


def _trailer(text: str) -> tuple[int, bytes]:
    match = _TRAILER.fullmatch(text)
    if not match:
        raise ConfigError(f"--explain takes EPOCH:DIGEST, a number and {2 * PREFIX_SIZE} hex digits")
    return int(match[1]), bytes.fromhex(match[2])


def _explained(explained: Explanation, reference: Reference | None) -> list[Finding]:
    """Return findings about what made an answer; the model's own are among those of the log."""
    image = explained.boot.image
    what = f"firmware of epoch {explained.boot.epoch}: {image.version if image else 'none could be started'}"
    digest = image.digest.hex() if image else ""
    if reference is None or image is None:
        return [Finding(what, digest, "", Verdict.NOT_COMPARED if image else Verdict.UNKNOWN_IMAGE)]
    known = {(entry.digest, entry.version, entry.counter) for entry in reference.images}
    good = (image.digest, image.version, image.counter) in known
    expected = digest if good else " or ".join(sorted(entry[0].hex() for entry in known))
    return [Finding(what, digest, expected, Verdict.GOOD if good else Verdict.UNKNOWN_IMAGE)]


def _print(address: str, claims: Claims, findings: list[Finding], asked: _Asked) -> None:
    quote = claims.quote
    out.print(Text(f"{address}: device {quote.device}, epoch {quote.epoch}, {quote.events} events in log {quote.log}"))
    out.print("signature, nonce and log of the quote hold")
    shown = table("WHAT", "FOUND", "EXPECTED", "VERDICT")
    for finding in findings:
        expected = "the same" if finding.expected == finding.found else finding.expected or "-"
        cells = (printable(text) for text in (finding.what, finding.found, expected))
        shown.add_row(*map(Text, cells), Text(finding.verdict, style=_STYLES.get(finding.verdict, "red")))
    out.print(shown)
    facts = " ".join(f"{key}={value}" for key, value in sorted(claims.configuration.items()))
    out.print(Text(f"configuration: {facts}"))
    if claims.restarted:
        out.print("the log was full and begun anew in this epoch: what was served and removed before is not in it")
    if asked.reference is None:
        out.print("nothing was compared: this is what the device claims; give --reference")
    if any(finding.verdict is Verdict.DEVICE_KEY_NOT_PINNED for finding in findings):
        out.print("the device's key is not pinned, it may be anybody's; give --device-key, or have it in the reference")


def _as_json(address: str, claims: Claims, findings: list[Finding], explained: Explanation | None) -> dict[str, Any]:
    quote = claims.quote
    return {
        "address": address,
        "device": quote.device,
        "device_key": claims.key.hex(),
        "epoch": quote.epoch,
        "log": quote.log,
        "events": quote.events,
        "uptime_ms": quote.uptime_ms,
        "register": quote.value.hex(),
        "restarted": claims.restarted,
        "rom": claims.rom.hex(),
        "image": {"digest": claims.image.digest.hex(), **claims.image.facts},
        "configuration": claims.configuration,
        "pipelines": [
            {
                "name": pipeline.name,
                "digest": pipeline.package.hex(),
                "model": pipeline.model.hex(),
                "served": claims.served.get(pipeline.name) == pipeline,
            }
            for pipeline in claims.pipelines
        ],
        "boots": [_boot(boot) for boot in claims.boots],
        "findings": [asdict(finding) for finding in findings],
        "explained": {"boot": _boot(explained.boot), "pipelines": [entry.name for entry in explained.pipelines]}
        if explained
        else None,
    }


def _boot(boot: Boot) -> dict[str, Any]:
    image = {"digest": boot.image.digest.hex(), **boot.image.facts()} if boot.image else None
    return {"epoch": boot.epoch, "reason": boot.reason_name, "image": image}
