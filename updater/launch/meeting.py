"""Where the machines of one task meet: an address of this one, and what torchrun is told of it.

Imports no torch. Used by `updater.launch.processes`, `updater.launch.join` and, on every machine,
`updater.launch.torchrun`.
"""

import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

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
    if training.nodes == 1 or in_pytorchjob():
        return training, ()
    if training.rendezvous == AUTO:
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        training = replace(training, rendezvous=f"{own_address()}:{port}")
    return training, (f"--rdzv-conf=is_host=1,join_timeout={_JOIN_SECONDS}",)


def answering() -> tuple[str, ...]:
    """What torchrun has to be told on a machine that comes to another one."""
    return (f"--rdzv-conf=is_host=0,join_timeout={_JOIN_SECONDS}",)


def in_pytorchjob() -> bool:
    """Whether this is a pod of one, whose operator sees to where its pods meet."""
    return "PET_NNODES" in os.environ


def place_of(words: Sequence[str]) -> str:
    """The host at which the torchrun of these words meets others; "": there are none."""
    prefix = "--rdzv-endpoint="
    found = [word.removeprefix(prefix) for word in words if word.startswith(prefix)]
    return found[0].rpartition(":")[0] if found else ""


def own_address(towards: str = "") -> str:
    """Of this machine, as others reach it: the one of its way to the host `towards`, or out, or of
    its first network; 127.0.0.1 where it has none."""
    ways = [_ELSEWHERE]
    if towards:
        with suppress(OSError):  # which no name server knows
            ways = [*(found[-1] for found in _found(towards)), _ELSEWHERE]
    for way in ways:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out, suppress(OSError):
            out.connect(way)
            address = str(out.getsockname()[0])
            if not address.startswith("127."):  # by which a machine may call itself
                return address
    networks = (one for one in addresses().values() if not one.startswith("127."))
    return next(networks, "127.0.0.1")


def network(address: str) -> dict[str, str]:
    """The variable by which gloo speaks through the network of that address. It would take what
    the host's name stands for, which is 127.0.1.1 on many systems, and nobody's on another
    machine."""
    names = [name for name, own in addresses().items() if own == address]
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


def _found(host: str) -> list[Any]:
    return socket.getaddrinfo(host.strip("[]"), 9, socket.AF_INET, socket.SOCK_DGRAM)
