"""What the profile's hardware would take in time and energy. Modelled, never measured."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from appliance.profile import Profile

# Preamble, Ethernet header, FCS and inter-frame gap: bits on the wire that are no PDU.
FRAME_OVERHEAD = 8 + 14 + 4 + 12
Ns = TypeVar("Ns", int, NDArray[np.int64])


class HardwareModel:
    """Times and energy of requests on a profile's hardware.

    Its DLA cores are busy until the last batch given to them ends; a batch that arrives before then queues. So the
    modelled queue time depends on arrivals alone, not on how fast the emulator happens to run.

    Energy of one inference, in nJ (1 W for 1 ns is 1 nJ)::

        (rx + tx) · port + pre · image engine + post · vector engine + dla / batch · DLA · rate
        + (rx + pre + dla / batch + post + tx) · idle

    A DLA that is throttled to a rate takes longer by 1 / rate, at a power that is lower by the rate: its work takes the
    same energy, and the board's idle power goes on for longer.
    """

    def __init__(self, profile: Profile) -> None:
        self._bit_ns = 1.0 / profile.value("port", "rate_gbps")
        self._watts = {part: profile.value(part, "watts") for part in ("port", "image_engine", "vector_engine", "dla")}
        self._idle = profile.value("board", "idle_watts")
        self._percent = 100
        self._free_at = [0] * int(profile.value("dla", "cores"))

    def set_dla_rate(self, percent: int) -> None:
        """Let the DLA run at a rate of 1 to 100 percent from now on."""
        self._percent = percent

    def dla_ns(self, full_ns: Ns) -> Ns:
        """Return the ns, int or int64 [n], that the DLA takes now for what takes ``full_ns`` at its full rate."""
        return full_ns if self._percent == 100 else full_ns * 100 // self._percent

    def wire_ns(self, wire_bytes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the ns that so many bytes of PDU, [n], take on the port; overhead of one frame is added."""
        return ((wire_bytes.astype(np.int64) + FRAME_OVERHEAD) * 8 * self._bit_ns).astype(np.int64)

    def queue_ns(self, arrivals: NDArray[np.int64], pre_ns: int, dla_ns: int) -> NDArray[np.int64]:
        """Give a batch to the DLA core that is free first; return how long each request waited, int64 [n].

        Args:
            arrivals: ns on the node's clock, int64 [n].
            pre_ns: Modelled ns before the DLA.
            dla_ns: Modelled ns of the invocation.
        """
        return self.start_dla(int(arrivals.max()) + pre_ns, dla_ns) - pre_ns - arrivals

    def start_dla(self, ready: int, dla_ns: int) -> int:
        """Give a batch that is ready at ``ready`` to the core that is free first; return when it starts, in ns."""
        core = self._free_at.index(min(self._free_at))
        start = max(ready, self._free_at[core])
        self._free_at[core] = start + dla_ns
        return start

    def energy_nj(self, modelled: dict[str, NDArray[np.int64]], batch: int, *, media: bool) -> NDArray[np.float64]:
        """Return the energy of each request, float64 [n].

        Args:
            modelled: Stage to ns, int64 [n] each; the DLA's is that of the whole batch.
            batch: Requests in it.
            media: Whether the image engine did the work before the DLA, else the vector engine did.
        """
        share = modelled["dla"] / batch
        pre = self._watts["image_engine" if media else "vector_engine"]
        wire = modelled["rx"] + modelled["tx"]
        energy: NDArray[np.float64] = (
            wire * self._watts["port"]
            + modelled["pre"] * pre
            + share * self._watts["dla"] * (self._percent / 100)
            + modelled["post"] * self._watts["vector_engine"]
            + (wire + modelled["pre"] + share + modelled["post"]) * self._idle
        )
        return energy
