"""The load on peers: ``h2load`` posts one serialised gRPC frame over and over; what it logged becomes a sample."""

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from host_sdk.bench.histogram import LatencyHistogram
from host_sdk.bench.pinned import pinned
from host_sdk.bench.system import Load, Sample
from host_sdk.wire.errors import DeviceError, NapuTimeoutError

CLIENTS = 4  # connections that larger concurrencies are spread over
_PATH = "/inference.GRPCInferenceService/ModelInfer"
_END_S = 30.0
_REQUESTS = re.compile(r"^requests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed", re.MULTILINE)
_DATA = re.compile(r"\((\d+)\) data$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class H2Load:
    """One run of h2load.

    Attributes:
        port: Of the server, on 127.0.0.1.
        body: File with the gRPC frame to post.
        log: File that it writes each request's start, status and latency to.
        load: What to put on the server.
    """

    port: int
    body: Path
    log: Path
    load: Load

    def command(self, program: str, seconds: float) -> list[str]:
        """Return the command line of a run of so many seconds."""
        clients = min(CLIENTS, self.load.concurrency)
        return [
            *(program, "--duration", f"{seconds * 1000:.0f}ms"),
            *("--clients", str(clients), "--max-concurrent-streams", str(self.load.concurrency // clients)),
            *("--log-file", str(self.log), "--data", str(self.body)),
            *("--header", "content-type: application/grpc", "--header", "te: trailers"),
            f"http://127.0.0.1:{self.port}{_PATH}",
        ]


def post(command: Sequence[str], core: int, meanwhile: Callable[[], float]) -> tuple[str, float]:
    """Run h2load on a core to its end, and something meanwhile; return what it wrote, and what that returned.

    Raises:
        NapuTimeoutError: It does not end.
    """
    process = subprocess.Popen(
        pinned(core, list(command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with process:
        try:
            found = meanwhile()
            output, _ = process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            raise NapuTimeoutError(
                f"h2load did not end within {_END_S:.0f} s of its time; is the server stuck?"
            ) from None
        finally:
            if process.poll() is None:
                process.kill()
    return output.decode(errors="replace"), found


def read_sample(output: str, log: str, load: Load, reply_bytes: int) -> Sample:
    """Return what h2load measured.

    It counts HTTP 200 as success even where the gRPC status is an error, and such a reply has no message; so the
    bytes of the replies are compared too.

    Args:
        output: Its standard output.
        log: Its log file: a line for each request, start in µs, HTTP status, latency in µs.
        load: What it was asked for.
        reply_bytes: Bytes of the gRPC frame of a good reply.

    Raises:
        DeviceError: Requests failed, or nothing was answered, or replies are not what they were when checked.
    """
    requests, data = _REQUESTS.search(output), _DATA.search(output)
    if not requests or not data:
        raise DeviceError(f"h2load told nothing of its requests; it wrote:\n{output[-2000:]}")
    total, succeeded, failed = (int(group) for group in requests.groups())
    if failed or not succeeded:
        raise DeviceError(f"of {total} requests h2load counts {succeeded} as answered and {failed} as failed")
    # Of replies under way at the end a part may have arrived.
    if not 0 <= int(data[1]) - succeeded * reply_bytes <= load.concurrency * reply_bytes:
        raise DeviceError(f"{succeeded} replies have {data[1]} bytes of data, but a good one has {reply_bytes}")
    latencies = [line.split()[2] for line in log.splitlines()]
    if len(latencies) != succeeded:
        raise DeviceError(f"h2load logged {len(latencies)} requests, but counted {succeeded}")
    histogram = LatencyHistogram()
    histogram.add(1000 * np.array(latencies, np.int64))
    return Sample(
        inferences_per_s=succeeded * load.batch / load.seconds,
        quantiles=histogram.quantiles(),
        requests=succeeded,
        lost=0,
    )
