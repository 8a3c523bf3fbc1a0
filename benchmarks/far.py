"""Run a command on a machine of its own, so to say, whose processes are far from each other.

    python benchmarks/far.py [--mtu 1500] MILLISECONDS COMMAND …

    python benchmarks/far.py 25 python benchmarks/peers.py --only tmpfs --sizes 1 16 --repeats 3

Every packet between two sockets of loopback takes so many milliseconds, one way; the line carries as much as this
process can forward. Linux only, with iproute2 and the right to make a network namespace (root, as a rule): all of
it is in a namespace that ends with the command, and nothing outside is touched.

How: in the namespace loopback's addresses are routed to a TUN device; this process reads packets there, and
writes them back when they are due. Packets that come in there are for this machine, so they are delivered. TCP is
the kernel's own, with its slow start and its windows.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

DEVICE = "far0"
TABLE = "100"
PACKET_MAX = 65536
QUEUE_PACKETS_MAX = 400_000
"""On the way at a time; beyond it they are lost, as in any router."""
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
INSIDE = "--inside"


class Line:
    """Gives every packet back after a time. Two threads, which end with the process."""

    def __init__(self, device: int, seconds: float) -> None:
        self._device, self._seconds = device, seconds
        self._packets: deque[tuple[float, bytes]] = deque()
        self._more = threading.Condition()
        self.lost = 0

    def start(self) -> None:
        """Begin."""
        for work in (self._take, self._give):
            threading.Thread(target=work, daemon=True).start()

    def _take(self) -> None:
        while True:
            packet = os.read(self._device, PACKET_MAX)
            with self._more:
                if len(self._packets) >= QUEUE_PACKETS_MAX:
                    self.lost += 1
                    continue
                self._packets.append((time.monotonic() + self._seconds, packet))
                self._more.notify()

    def _give(self) -> None:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._packets)
                due, packet = self._packets.popleft()
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            os.write(self._device, packet)


def open_device() -> int:
    """A TUN device's descriptor. Raises OSError where that is not allowed."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    return device


def route(mtu: int) -> None:
    """All that is sent goes to the device, and what comes from there is for this machine."""
    for command in (
        f"link set lo up mtu {mtu}",
        f"link set {DEVICE} up mtu {mtu}",
        f"route add default dev {DEVICE} table {TABLE} src 127.0.0.1",
        f"rule add pref 1 iif {DEVICE} lookup local",
        f"rule add pref 2 lookup {TABLE}",
        "rule del pref 0",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    settings = Path("/proc/sys/net/ipv4/conf")
    for where in ("all", DEVICE):
        (settings / where / "rp_filter").write_text("0")
        (settings / where / "accept_local").write_text("1")
        (settings / where / "route_localnet").write_text("1")


def inside(milliseconds: float, mtu: int, command: list[str]) -> int:
    """In the namespace: make the line, run the command; its exit code."""
    device = open_device()
    route(mtu)
    line = Line(device, milliseconds / 1000)
    line.start()
    code = subprocess.run(command, check=False).returncode
    if line.lost:
        print(f"{line.lost} packets were lost: the line was full", file=sys.stderr)
    return code


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument("milliseconds", type=float)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.inside:
        return inside(given.milliseconds, given.mtu, given.command)
    if not all(map(shutil.which, ("unshare", "ip"))) or not Path("/dev/net/tun").exists():
        print("needs Linux with unshare, ip and /dev/net/tun", file=sys.stderr)
        return 2
    own = [sys.executable, __file__, INSIDE, *sys.argv[1:]]
    return subprocess.run(["unshare", "--net", *own], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
