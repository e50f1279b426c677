"""A stand-in for an appliance: answers every frame of NIP's EtherType to its sender, with the same payload.

Run as a script with ``--ready-fd N``; the other options are ways to misbehave.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ETHERTYPE = 0x88B5
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def serve(ready: int, announcement: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) as link:
        link.bind(("eth0", ETHERTYPE))
        mac = link.getsockname()[4]
        os.write(ready, announcement.replace("MAC", mac.hex(":")).encode() + b"\n")
        os.close(ready)
        while True:
            frame, address = link.recvfrom(65536)
            if address[2] in (socket.PACKET_HOST, socket.PACKET_BROADCAST):
                link.send(frame[6:12] + mac + frame[12:])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--announce", default=json.dumps({"mac": "MAC"}), help="what to announce")
    parser.add_argument("--die", type=int, help="end at once with this exit code")
    parser.add_argument("--mute", action="store_true", help="never announce")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--deaf-child", action="store_true", help="leave such a child in a session of its own")
    parser.add_argument("--flash", help="write a file there")
    arguments = parser.parse_args()
    if arguments.die is not None:
        sys.stderr.write("the fuse box is empty\n")
        return int(arguments.die)
    if arguments.flash:
        Path(arguments.flash, "slot0").write_bytes(bytes(4096))
    if arguments.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.deaf_child:
        subprocess.Popen([sys.executable, "-c", DEAF], start_new_session=True)
    if arguments.mute:
        signal.pause()
    serve(arguments.ready_fd, arguments.announce)
    return 0


if __name__ == "__main__":
    sys.exit(main())
