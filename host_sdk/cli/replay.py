"""``napu replay``: a capture as the reproducer."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from host_sdk.capture.answers import Comparison, compare, gather_answers, tally
from host_sdk.capture.replay import Plan, plan_replay
from host_sdk.cli.output import (
    EXIT_FAILED,
    JsonOption,
    LabOption,
    LinkOption,
    client,
    err,
    failures,
    out,
    print_json,
    progress,
)
from host_sdk.wire.errors import ConfigError

DEFAULT_PROFILE = "napu-s"
SHOWN = 20  # differences


def replay(
    file: Annotated[Path, typer.Argument(help="Capture, pcap or pcapng.", exists=True, dir_okay=False)],
    virtual: Annotated[
        bool, typer.Option("--virtual", help="To a device in this process, on a virtual clock.")
    ] = False,
    node: Annotated[str, typer.Option(help="To the appliance at this address.")] = "",
    package: Annotated[
        list[Path] | None,
        typer.Option(help="With --virtual: pipeline directory or package file, repeatable; by default those shipped."),
    ] = None,
    profile: Annotated[str, typer.Option(help="With --virtual: hardware profile.")] = DEFAULT_PROFILE,
    seed: Annotated[int, typer.Option(min=0, help="With --virtual: seed of its session ids.")] = 0,
    save: Annotated[Path | None, typer.Option("--out", help="With --virtual: pcap file for the replies.")] = None,
    speed: Annotated[float, typer.Option(min=0.001, max=1000, help="With --node: times the capture's pace.")] = 1.0,
    appliance: Annotated[str, typer.Option(help="Which of the capture's addresses is the appliance.")] = "",
    link: LinkOption = "auto",
    lab: LabOption = "",
    as_json: JsonOption = False,
) -> None:
    """Send the requests of a capture again, and compare the answers with those in it.

    Exit status 1 when an answer is missing or differs in more than what is volatile.
    """
    with failures(as_json=as_json):
        if virtual == bool(node):
            raise ConfigError("say where to replay to: --virtual, or --node ADDRESS")
        with err.status(f"reading {file.name}"):
            plan = plan_replay(file, appliance)
        if virtual:
            replies, facts = _to_virtual(plan, profile, package, seed, save)
        else:
            replies, facts = _to_node(plan, node, speed, link, lab)
        result = _compared(plan, replies, facts)
    if as_json:
        # asdict makes a Counter of a Counter's items, not of what they count.
        told = {"differences": [str(entry) for entry in result.differences], "fields": dict(result.fields)}
        shown = {**asdict(result), **told}
        print_json({"appliance": plan.appliance, "left_out": dict(plan.left_out), **facts, "answers": shown})
    else:
        _print(plan, facts, result)
    if not result.same:
        raise typer.Exit(EXIT_FAILED)


Replies = tuple[tuple[str, bytes], ...]


def _compared(plan: Plan, replies: Replies, facts: dict[str, Any]) -> Comparison:
    """Hold the answers of a replay against those in its capture, and add to the facts what is not compared."""
    answered, asked = gather_answers(plan.replies), plan.asked
    # To an id or a session that was damaged on the way to the appliance: nobody asked so, and nobody took them.
    facts["strays"] = len(answered.keys() - asked)
    facts["told"] = _told(plan.replies, replies)
    then = {key: answer for key, answer in answered.items() if key in asked}
    return compare(then, gather_answers(replies), SHOWN)


def _told(then: Replies, now: Replies) -> dict[str, tuple[int, int]]:
    """Return how often each status and notice came then and now, copies among them."""
    before, after = tally(then), tally(now)
    return {name: (before[name], after[name]) for name in sorted(before | after)}


def _to_virtual(
    plan: Plan, profile: str, packages: list[Path] | None, seed: int, save: Path | None
) -> tuple[Replies, dict[str, Any]]:
    # Here, as the device takes a while to load.
    from appliance.cli import factory_pipelines
    from appliance.pipelines.package import pack_directory
    from appliance.profile import load_profile
    from host_sdk.cli.replay_virtual import replay_virtual

    try:
        packed = [
            pack_directory(path) if path.is_dir() else path.read_bytes() for path in packages or factory_pipelines()
        ]
        with progress("frames", sum(len(batch.frames) for batch in plan.batches)) as advance:
            run = replay_virtual(plan, load_profile(profile), packed, seed, save, advance)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    facts = {"frames": run.frames, "replies": len(run.replies), "digest": run.digest, "unknown_pipelines": run.lost}
    return run.replies, facts


def _to_node(plan: Plan, node: str, speed: float, link: str, lab: str) -> tuple[Replies, dict[str, Any]]:
    from host_sdk.capture.replay_live import replay_live

    with client(link, [node], lab) as napu:
        served = [asdict(pipeline) for pipeline in napu.pipelines(node)]
        # On the client's own link: an open session takes no part in it, and nothing else is asked there from here on.
        run = replay_live(plan, napu.link, napu.link.parse_address(node), served, speed=speed)
    facts = {"frames": run.frames, "replies": len(run.replies), "unknown_pipelines": run.lost}
    return run.replies, {**facts, "unsent": run.unsent, "latest_us": run.latest_ns / 1000}


def _print(plan: Plan, facts: dict[str, Any], result: Comparison) -> None:
    out.print(f"{facts['frames']} frames to {plan.appliance} replayed, {facts['replies']} came back")
    for reason, count in plan.left_out.items():
        out.print(f"left out: {count} {reason} frames")
    if facts["unknown_pipelines"]:
        handles = ", ".join(f"{handle:#06x}" for handle in facts["unknown_pipelines"])
        out.print(f"no pipeline was found for {handles}; give its package with --package, or install it")
    if facts.get("unsent"):
        out.print(f"{facts['unsent']} frames were not taken by the link")
    if "digest" in facts:
        out.print(f"digest of the replies: {facts['digest']}")
    out.print(
        f"answers: {result.identical} identical, {result.alike} the same but for volatile fields, "
        f"{result.different} different, {result.missing} missing, {result.extra} not in the capture"
    )
    if facts["strays"]:
        out.print(f"{facts['strays']} answers in the capture are to no request in it, and not compared")
    if result.fields:
        out.print(f"they differ in: {', '.join(f'{name} ({count})' for name, count in result.fields.most_common())}")
    changed = {name: counts for name, counts in facts["told"].items() if counts[0] != counts[1]}
    if changed:
        shown = ", ".join(f"{name} {then} and {now}" for name, (then, now) in changed.items())
        out.print(f"all that was told, then and now, copies among it: {shown}")
    if changed.get("BAD_CRC", (0, 0))[0] > changed.get("BAD_CRC", (0, 0))[1]:
        out.print("requests were damaged behind the point of capture; here they arrive as they passed there")
    for difference in result.differences:
        out.print(str(difference), markup=False)
