"""Where the machines of one task meet: an address of this one, and what torchrun is told of it.

Imports no torch. Used by `updater.launch.processes` and `updater.launch.join`.
"""

import fcntl
import socket
import struct
import sys
from dataclasses import replace

from updater.settings import AUTO, TrainingSettings

_ELSEWHERE = ("192.0.2.1", 9)
"""An address that is nobody's (RFC 5737): the way to it says which of its own a machine has there.
Nothing is sent."""

_SIOCGIFADDR = 0x8915  # of linux/sockios.h: an interface's address
_JOIN_SECONDS = 1800
"""For which those who have come wait for the rest. torch's own 600 are few where a node has to be
bought first; as `kubernetes.join_timeout_seconds`."""


def met_at(training: TrainingSettings) -> tuple[TrainingSettings, tuple[str, ...]]:
    """The training with a place where its nodes meet, of this machine where it is to choose one;
    and what torchrun has to be told then."""
    if training.nodes == 1 or training.rendezvous != AUTO:
        return training, ()
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    chosen = replace(training, rendezvous=f"{own_address()}:{port}")
    return chosen, _told(is_host=True)


def answering() -> tuple[str, ...]:
    """What torchrun has to be told on a machine that answers a call."""
    return _told(is_host=False)


def own_address() -> str:
    """Of this machine, as others reach it: the one of its way out, or of its first network;
    127.0.0.1 where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect(_ELSEWHERE)
            return str(way.getsockname()[0])
        except OSError:
            networks = (one for one in addresses().values() if not one.startswith("127."))
            return next(networks, "127.0.0.1")


def network() -> dict[str, str]:
    """The variable by which gloo speaks through the network of `own_address`. It would take what
    the host's name stands for, which is 127.0.1.1 on many systems, and nobody's on another
    machine."""
    own = own_address()
    names = [name for name, address in addresses().items() if address == own]
    return {"GLOO_SOCKET_IFNAME": names[0]} if names else {}


def addresses() -> dict[str, str]:
    """Of each network interface that has an IPv4 address, by its name. Linux alone."""
    found = {}
    if sys.platform == "linux":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode()[:15])
                try:
                    answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, request)
                except OSError:  # it has none
                    continue
                found[name] = socket.inet_ntoa(answer[20:24])
    return found


def _told(*, is_host: bool) -> tuple[str, ...]:
    conf = f"is_host={int(is_host)},join_timeout={_JOIN_SECONDS}"
    return (f"--rdzv-conf={conf}", f"--local-addr={own_address()}")
