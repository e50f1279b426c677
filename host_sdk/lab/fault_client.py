"""Ask for or change an appliance's faults where its socket is: ``python -m host_sdk.lab.fault_client SOCKET JSON``.

JSON is ``{"in": …, "out": …}`` with null for what shall stay. Prints the faults that there are then, likewise, or an
object with ``error``, the exception's name, and ``message``.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from host_sdk.wire.errors import ConfigError, DeviceError
from host_sdk.wire.links.fault_control import ask_faults


def main(argv: Sequence[str]) -> int:
    """Ask; return 0 whatever the answer is."""
    wanted = json.loads(argv[1])
    try:
        there, back = ask_faults(Path(argv[0]), wanted["in"], wanted["out"])
        answer = {"in": there, "out": back}
    except (ConfigError, DeviceError) as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
