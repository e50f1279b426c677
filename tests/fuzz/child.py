"""Fuzz one target in this process, which the fuzzer ends: python -m tests.fuzz.child TARGET SECONDS DIRECTORY SEEDS.

Started by tests.fuzz.campaign, in the environment that has atheris. DIRECTORY gets the inputs that reached more code;
those in SEEDS are read. What libFuzzer prints goes to standard error.
"""

import logging
import sys
import time
from pathlib import Path

import atheris

MAX_INPUT = 16 * 1024  # bytes
HANG_S = 20  # for one input; none takes a tenth of a second, however busy the machine is
MEMORY_MB = 2048


def main() -> None:
    """Fuzz for so many seconds, the imports of the project counted."""
    began = time.monotonic()
    name, seconds, directory, seeds = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["appliance", "firmware", "host_sdk"]):
        from tests.fuzz.targets import TARGETS
    left = max(1, round(seconds - (time.monotonic() - began)))
    options = {
        "max_total_time": left,
        "max_len": MAX_INPUT,
        "timeout": HANG_S,
        "rss_limit_mb": MEMORY_MB,
        "artifact_prefix": f"{directory / 'found'}/",
        "print_final_stats": 1,
    }
    flags = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(directory / "corpus"), seeds], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
