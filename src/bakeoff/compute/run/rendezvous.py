"""Where the processes of one run meet: at a file on one machine, at a port of rank 0's machine over several."""

import fcntl
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from torch import distributed

from bakeoff.compute.model.device import nth, use
from bakeoff.compute.model.team import Team

SIOCGIFADDR = 0x8915  # of Linux: asks for an interface's address


def opened(address: str, size: int, folder: Path) -> tuple[Any, str]:
    """Return rank 0's store for so many processes, and the name by which the others find it.

    It is a file in `folder`, or a free port of the machine with this address.
    """
    if not address:
        return found(str(folder / "store"), size), str(folder / "store")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family)  # torch itself would listen on every interface
    port = listener.getsockname()[1]
    store = distributed.TCPStore(
        address, port, size, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach(), use_libuv=False
    )  # fmt: skip
    return store, f"tcp://{address}:{port}"


def found(name: str, size: int) -> Any:
    """Return the store of this name."""
    if not name.startswith("tcp://"):
        return distributed.FileStore(name, size)
    address, _, port = name.removeprefix("tcp://").rpartition(":")
    return distributed.TCPStore(address, int(port), size, is_master=False)


def meet(team: Team, store: Any, device: str, address: str) -> None:
    """Meet the other processes; this one is on a machine with this address, which is empty if all are on one."""
    own = nth(device, team.number)
    use(own)
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    if interface := interface_of(address) if address else loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if address and interface:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")
    team.join(store, own)


def interface_of(address: str) -> str | None:
    """Return the name of the network interface with an IPv4 address; None if it is not found, then libraries choose."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
