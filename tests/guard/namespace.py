"""A network of this process tree's own, with nothing on it but loopback.

It holds for every child, whatever its environment and language: the kernel has no other route to give. So the workers,
whose environment is filtered, cannot leave the machine either, and no test can meet a service of the developer's (an
Ollama on its default port, say). Needs Linux and the right to make a namespace, which root has; without it, tests rely
on on_path/sitecustomize.py alone. Facts from network_namespaces(7), unshare(2) and netdevice(7).
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x1 | 0x40


def enter_own_network() -> bool:
    """Move this thread, and all that it starts from now on, to a network with loopback alone. False: not allowed here.

    Call it while the process has one thread: others would stay behind.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP_RUNNING))
    return True
