"""A network of machines on this one: each has a network namespace, whose cable can be pulled out.

What a machine sent is then on no way back and nothing is reset, as with a switch that lost its power.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

_IP: Final = shutil.which("ip")


class Machine:
    """A place for programs, with an address of its own."""

    def __init__(self, network: str, number: int) -> None:
        self._name = f"sd{os.getpid()}-{number}"
        self._cable = f"sd{os.getpid()}v{number}"
        self._network = network
        self.address: Final = f"{network}.{number}"
        self.prefix: Final = (_IP or "ip", "netns", "exec", self._name)
        """Of a command that is to run there."""

    def make(self, bridge: str) -> None:
        """Gives it a cable to the others."""
        inner = f"{self._cable}i"
        _ip("netns", "add", self._name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", inner, "netns", self._name)
        _ip("link", "set", self._cable, "master", bridge, "up")
        _ip("-n", self._name, "addr", "add", f"{self.address}/24", "dev", inner)
        for device in (inner, "lo"):
            _ip("-n", self._name, "link", "set", device, "up")

    def cut_off(self) -> None:
        """From now on nothing comes in or goes out."""
        _ip("link", "set", self._cable, "down")

    def join(self) -> None:
        """From now on everything passes again."""
        _ip("link", "set", self._cable, "up")

    def remove(self) -> None:
        """What runs there has to have ended."""
        _ip("netns", "del", self._name)


def can_be_made() -> bool:
    """Whether this user may make network namespaces here."""
    try:
        with machines(1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """They reach each other, and are reached from here. Raises CalledProcessError or OSError."""
    if not count:
        yield []
        return
    # Addresses for tests of networks (RFC 2544), apart from those of tests that run at the same time.
    network = f"198.{18 + os.getpid() // 250 % 2}.{os.getpid() % 250}"
    bridge = f"sd{os.getpid()}b"
    with ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{network}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        found = []
        for number in range(2, 2 + count):
            machine = Machine(network, number)
            machine.make(bridge)
            stack.callback(machine.remove)
            found.append(machine)
        yield found


def _ip(*arguments: str) -> None:
    if _IP is None:
        raise FileNotFoundError("there is no command ip")
    subprocess.run([_IP, *arguments], capture_output=True, text=True, check=True, timeout=30)
