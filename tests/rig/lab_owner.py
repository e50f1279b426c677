"""Brings a lab up and waits: ``python lab_owner.py TOPOLOGY [--detach]``, to be killed by a test.

Writes the lab's state to standard output once it is up.
"""

import json
import signal
import sys

from host_sdk.lab.lab import Lab
from host_sdk.lab.topology import Topology


def main() -> None:
    topology = Topology.from_mapping(json.loads(sys.argv[1]))
    detach = "--detach" in sys.argv
    lab = Lab.up(topology, detach=detach)
    sys.stdout.write(json.dumps(json.loads(lab.status().to_json())) + "\n")
    sys.stdout.flush()
    if not detach:
        signal.pause()


if __name__ == "__main__":
    main()
