"""What a soak has found, as text, as plain data, and as sentences on what was wrong."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.rig.usage import ALLOWED, Growth


@dataclass(frozen=True)
class Befallen:
    """A fault that happened.

    Attributes:
        at_s: When it began, in s from the beginning of the soak.
        fault: Its name.
        node: Whom it befell.
        back_s: From its end until the appliance was healthy and had answered again.
    """

    at_s: float
    fault: str
    node: str
    back_s: float

    def line(self, now: dict[str, Any]) -> str:
        """Return it and what became of requests so far in one line."""
        errors = sum(now["errors"].values())
        return (
            f"{self.at_s:6.0f} s  {self.fault:<10}  {self.node:<7}  back after {self.back_s:4.1f} s   "
            f"sent {now['sent']}, right {now['right']}, wrong {now['wrong']}, errors {errors}"
        )


@dataclass
class Report:
    """What a soak has found.

    Attributes:
        seed: Of what happened to whom.
        appliances: How many.
        rate: Requests a second.
        seconds: How long it took.
        faults: What happened.
        requests: What became of requests, by the fault under which they were sent.
        growth: Of an appliance and of the client; nothing where the run was too short.
        broken: What an appliance or a fault did not do.
        left: What the engine still had of the lab afterwards.
        interrupted: Whether somebody ended it.
    """

    seed: int
    appliances: int
    rate: float
    seconds: float = 0.0
    faults: list[Befallen] = field(default_factory=list)
    requests: dict[str, Any] = field(default_factory=dict)
    growth: dict[str, Growth] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    interrupted: bool = False

    def problems(self) -> list[str]:
        """Return a sentence for everything that was wrong."""
        found = list(self.broken)
        if not self.requests:
            return [*found, "there is no account of the requests"]
        asked = self.requests
        if not asked["sent"]:
            found.append("nothing was sent")
        for kind, count in (("lost", asked["lost"]), ("answered wrongly", asked["wrong"]), *asked["errors"].items()):
            if count:
                found.append(f"{count} requests: {kind}")
        found += [f"client: {sentence}" for sentence in asked["broken"]]
        found += [
            f"{who}: {kind} grew by {growth.added[kind]:.1f}; at most {ALLOWED[kind]:g} is allowed"
            for who, growth in self.growth.items()
            for kind in growth.over
        ]
        found += [f"left in the engine: {name}" for name in self.left]
        return found

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON can have it."""
        return asdict(self) | {"allowed_growth": ALLOWED, "problems": self.problems()}

    def text(self) -> str:
        """Return everything as people read it."""
        lines = [
            f"{len(self.faults)} faults in {self.seconds:.0f} s, seed {self.seed}, {self.appliances} appliances",
            "",
            f"{'fault':<12}{'times':>6}{'sent':>8}{'right':>8}{'wrong':>7}{'errors':>8}{'slowest':>10}{'back in':>12}",
        ]
        times = Counter(fault.fault for fault in self.faults)
        for name, phase in self.requests.get("phases", {}).items():
            back = max((fault.back_s for fault in self.faults if fault.fault == name), default=0.0)
            counts = f"{phase['sent']:>8}{phase['right']:>8}{phase['wrong']:>7}{sum(phase['errors'].values()):>8}"
            lines.append(f"{name:<12}{times[name]:>6}{counts}{phase['longest_ms']:>7.0f} ms{back:>10.1f} s")
        if self.requests:
            total = self.requests
            counts = f"{total['sent']:>8}{total['right']:>8}{total['wrong']:>7}{sum(total['errors'].values()):>8}"
            lines += [f"{'all':<12}{len(self.faults):>6}{counts}", f"lost: {total['lost']}", ""]
            lines += [f"errors by name: {total['errors'] or 'none'}", *total["examples"]]
        lines += self._growth_lines()
        well = "nothing lost, nothing wrong, nothing left" + (", no growth" if self.growth else "")
        lines += ["", *(self.problems() or [well])]
        return "\n".join(lines)

    def _growth_lines(self) -> list[str]:
        if not self.growth:
            return ["the run was too short to say anything on growth"]
        lines = ["", f"{'after warm-up':<16}{'first':>12}{'last':>12}{'by slope':>12}{'allowed':>12}"]
        for who, grown in self.growth.items():
            first, last = asdict(grown.first), asdict(grown.last)
            lines.append(f"{who}, pss_kb{'':<{max(0, 8 - len(who))}}{first['pss_kb']:>10}{last['pss_kb']:>12}")
            for kind, most in ALLOWED.items():
                figures = f"{first[kind]:>12}{last[kind]:>12}{grown.added[kind]:>+12.1f}{most:>12g}"
                lines.append(f"  {kind:<14}{figures}")
        return lines
