"""A model's first run, in a process of its own: a file that crashes the runtime takes only that process down.

The process gets the model on standard input and prints one line of JSON.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

from appliance.dla.backends import load_backend
from host_sdk.wire.errors import ConfigError

TIMEOUT_S = 20
MEMORY_BYTES = 4 << 30
CPU_SECONDS = 15
# This very code is tried, wherever it lies, and not another copy that may be installed.
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from appliance.dla.trial import main; main()"


def try_model(model: bytes, backend: str, max_batch: int = 1) -> int:
    """Load the model in another process as it will be loaded here, which runs it in every batch up to the largest.

    Returns:
        Multiply-accumulates of one inference: its graph is read there as well.

    Raises:
        ConfigError: It does not load, crashes the runtime, or takes too long; the message says which.
    """
    command = [sys.executable, "-I", "-c", _PROGRAM, str(Path(__file__).parents[2]), backend, str(max_batch)]
    try:
        done = subprocess.run(command, input=model, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"the model did not load and run in every batch within {TIMEOUT_S} s") from None
    try:
        said = json.loads(done.stdout.splitlines()[-1])
        sentence, macs = str(said["error"]), int(said["macs"])
    except (IndexError, ValueError, KeyError, TypeError):
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        last = f": {lines[-1][:200]}" if lines else ""
        raise ConfigError(f"the model crashes {backend} (exit status {done.returncode}{last})") from None
    if sentence:
        raise ConfigError(sentence)
    return macs


def main() -> None:
    """Load the model on standard input and report."""
    from appliance.dla.cost import count_macs  # here alone: it brings the schema's two hundred modules

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sentence, macs, model = "", 0, sys.stdin.buffer.read()
    try:
        macs = count_macs(model)
        load_backend(sys.argv[1])(model, int(sys.argv[2]))
    except ConfigError as error:
        sentence = str(error)
    sys.stdout.write("\n" + json.dumps({"error": sentence, "macs": macs}) + "\n")
