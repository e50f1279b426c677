"""Set a port of the switch up or down: ``python -m host_sdk.lab.port_state PORT up|down`` in its namespace."""

import sys
from collections.abc import Sequence

from host_sdk.lab.namespace import lower_interface, raise_interface


def main(argv: Sequence[str]) -> int:
    """Set the port; return 1 when there is none."""
    name, state = argv
    try:
        (raise_interface if state == "up" else lower_interface)(name)
    except OSError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
