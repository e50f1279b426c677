"""What the demo says: numbers from the answers and from the capture, a contact sheet, and words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.columns import Columns
from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from host_sdk.capture.reader import read_capture
from host_sdk.cli.contact_sheet import draw_contact_sheet
from host_sdk.cli.demo_images import HeldOut
from host_sdk.cli.output import table
from host_sdk.wire.schema import STAGES, Opcode

SHOWN = 7
_BAR = 24
_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Report:
    """The demo's outcome; times in µs, energy in µJ."""

    nodes: list[dict[str, Any]]
    link: str
    reason: str
    images: int
    correct: int
    latency_us: dict[str, float]
    stages_us: dict[str, float]
    modelled_us: dict[str, float]
    energy_uj_per_inference: float
    frames: dict[str, int]
    capture: Path
    contact_sheet: Path
    examples: list[tuple[HeldOut, dict[str, Any]]]
    unanswered: int
    sent_again: int

    @property
    def accuracy(self) -> float:
        """Part of the images that were classified right."""
        return self.correct / self.images

    def to_mapping(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "nodes": self.nodes,
            "link": self.link,
            "images": self.images,
            "correct": self.correct,
            "unanswered": self.unanswered,
            "accuracy": self.accuracy,
            "latency_us": self.latency_us,
            "stages_us": self.stages_us,
            "stages_us_modelled": self.modelled_us,
            "energy_uj_per_inference": self.energy_uj_per_inference,
            "frames": self.frames,
            "capture": str(self.capture),
            "contact_sheet": str(self.contact_sheet),
        }

    def print(self, console: Console, picture: Path | None) -> None:
        """Print the report, and save it as an SVG picture if one is asked for."""
        body = Group(self._head(), Text(), self._predictions(), Text(), self._stages(), Text(), self._foot())
        console.print(body, width=min(console.width, _WIDTH))
        if picture:
            recorder = Console(record=True, width=_WIDTH, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
            recorder.print(body)
            recorder.file.close()
            picture.write_text(recorder.export_svg(title="make demo"), encoding="utf-8")

    def _head(self) -> Group:
        shown = table("APPLIANCE", "ADDRESS", "LINK", "FIRMWARE", "IMAGES")
        for node in self.nodes:
            firmware = f"{node['firmware']['version']} {node['firmware']['digest'][:8]}"
            shown.add_row(node["name"], node["address"], node["link"], firmware, str(node["images"]))
        right = Text.assemble(
            (f"{self.correct} of {self.images} right, {self.accuracy:.1%}", "bold green"),
            f"  ·  latency p50 {self.latency_us['p50']:.0f} µs, p99 {self.latency_us['p99']:.0f} µs",
        )
        return Group(shown, Text(), right)

    def _predictions(self) -> Columns:
        cells = []
        for item, answer in self.examples:
            good = answer["label"] == item.label
            text = Text(f"{answer['label'] or 'no answer'} {answer.get('score', 0):.2f}\n")
            text.append(f"is {item.label}", "green" if good else "red")
            cells.append(Panel(text, title=item.name[:4], width=14))
        return Columns(cells)

    def _stages(self) -> Any:
        shown = table("STAGE", "MEASURED µs", "", "MODELLED µs")
        for column in (shown.columns[1], shown.columns[3]):
            column.justify = "right"
        longest = max(self.stages_us.values()) or 1.0
        for stage in STAGES:
            bar = "█" * round(_BAR * self.stages_us[stage] / longest)
            shown.add_row(stage, f"{self.stages_us[stage]:.1f}", Text(bar, "cyan"), f"{self.modelled_us[stage]:.1f}")
        return shown

    def _foot(self) -> Text:
        frames = self.frames
        again = f" ({self.sent_again} sent again)" if self.sent_again else ""
        return Text(
            f"energy   {self.energy_uj_per_inference:.1f} µJ an inference, modelled from hardware profile "
            f"{self.nodes[0]['profile']}: its watts are assumptions\n"
            f"wire     {frames['total']} frames, {frames['bytes']} bytes: {frames['requests']} with requests{again}, "
            f"{frames['replies']} with answers, {frames['control']} of discovery and control\n"
            f"link     {self.reason}\n"
            f"capture  {self.capture}, {frames['dropped']} frames lost\nsheet    {self.contact_sheet}"
        )


def summarise(result: dict[str, Any], items: list[HeldOut], capture: Path, sheet: Path) -> Report:
    """Make the report of what the host found, and draw the contact sheet.

    Raises:
        ConfigError: The capture cannot be read.
    """
    answers: list[dict[str, Any]] = result["answers"]
    good = [answer for answer in answers if "error" not in answer]
    latencies = np.array([answer["latency_us"] for answer in good] or [0.0])
    measured = np.array([answer["measured_ns"] for answer in good] or [[0] * len(STAGES)]) / 1000
    modelled = np.array([answer["modelled_ns"] for answer in good] or [[0] * len(STAGES)]) / 1000
    pairs = list(zip(items, answers, strict=True))
    wrong = [pair for pair in pairs if pair[1]["label"] != pair[0].label]
    draw_contact_sheet(sheet, [(item.jpeg, item.label, answer["label"]) for item, answer in pairs])
    for node in result["nodes"]:
        node["images"] = sum(answer.get("appliance") == node["address"] for answer in answers)
    return Report(
        nodes=result["nodes"],
        link=result["link"],
        reason=result["reason"],
        images=len(items),
        correct=len(items) - len(wrong),
        latency_us={"p50": float(np.percentile(latencies, 50)), "p99": float(np.percentile(latencies, 99))},
        stages_us=dict(zip(STAGES, np.median(measured, axis=0).tolist(), strict=True)),
        modelled_us=dict(zip(STAGES, np.median(modelled, axis=0).tolist(), strict=True)),
        energy_uj_per_inference=float(np.mean([answer["energy_nj"] for answer in good] or [0])) / 1000,
        frames={**count_frames(capture), "dropped": result["dropped"]},
        capture=capture,
        contact_sheet=sheet,
        examples=(wrong[: SHOWN // 3] + pairs)[:SHOWN],
        unanswered=len(answers) - len(good),
        sent_again=sum(answer["transmissions"] for answer in good) - len(good),
    )


def count_frames(capture: Path) -> dict[str, int]:
    """Count the PDUs of a capture: INFER requests and RESULT replies by their fragments, all others as control.

    Raises:
        ConfigError: The capture cannot be read.
    """
    counts = {"requests": 0, "replies": 0, "control": 0, "total": 0, "bytes": 0}
    kinds = {int(Opcode.INFER): "requests", int(Opcode.RESULT): "replies"}
    for captured in read_capture(capture):
        counts[kinds.get(captured.pdu[1], "control") if len(captured.pdu) > 1 else "control"] += 1
        counts["total"] += 1
        counts["bytes"] += captured.frame_bytes
    return counts
