"""The limit that everything is compared with: the interpreter alone, in a process of its own on the server's core."""

import sys
from pathlib import Path
from typing import Any

from host_sdk.bench.process import Child, usage
from host_sdk.bench.system import Quantiles, Sample

SCRIPT = Path(__file__).parent / "servers" / "inprocess.py"
BATCHES = (1, 32)
_START_S = 60.0
_ANSWER_S = 60.0


class InProcess:
    """The interpreter in a process of its own, which sleeps until it is asked.

    Args:
        model: The .tflite file.
        core: Where it runs.
    """

    def __init__(self, model: Path, core: int) -> None:
        self._child = Child("the interpreter in process", [sys.executable, str(SCRIPT), str(model)], core)
        try:
            self.tensors: dict[str, Any] = self._child.receive(_START_S)
        except BaseException:
            self._child.stop()
            raise

    def outputs(self, inputs: Path) -> list[bytes]:
        """Return the output for each input in a .npy file, run one by one.

        Raises:
            DeviceError: The model failed.
        """
        answer = self._child.ask({"op": "outputs", "inputs": str(inputs)}, _ANSWER_S)
        return [bytes.fromhex(output) for output in answer["outputs"]]

    def run(self, batch: int, seconds: float) -> Sample:
        """Run the model for a time, alone.

        Raises:
            DeviceError: The process ended.
        """
        before = usage(self._child.pid)
        answer = self._child.ask({"op": "run", "batch": batch, "seconds": seconds}, _ANSWER_S + seconds)
        after = usage(self._child.pid)
        rate = answer["inferences"] * 1e9 / answer["elapsed_ns"]
        p50, p99, p999 = (value / 1000 for value in answer["quantiles_ns"])
        # All of it is spent on inferences, so the rate says what one takes; the ticks would say the same, coarser.
        busy = min(1.0, (after.cpu_s - before.cpu_s) / seconds)
        return Sample(
            inferences_per_s=rate,
            quantiles=Quantiles(p50, p99, p999),
            requests=answer["inferences"] // batch,
            lost=0,
            server_cpu_us=busy * 1e6 / rate,
            rss_mb=after.rss_mb,
        )

    def stop(self) -> None:
        """End the process."""
        self._child.stop()
