"""Runs a command in a network of its own, where only one server is: the one behind a socket file.

Start it with ``unshare -rn python lone_network.py SOCKET COMMAND...``: it brings the loopback device up,
passes port 80 of it on to the socket, and runs the command. Nothing else can be reached from there.
"""

import fcntl
import socket
import struct
import subprocess
import sys
import threading

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
"""netdevice(7)."""


def main() -> int:
    """Run the command; return its exit code."""
    path, command = sys.argv[1], sys.argv[2:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack("16xh22x", fcntl.ioctl(control, SIOCGIFFLAGS, request))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))
    listener = socket.create_server(("127.0.0.1", 80))
    threading.Thread(target=accept, args=(listener, path), daemon=True).start()
    return subprocess.run(command).returncode


def accept(listener: socket.socket, path: str) -> None:
    """Join each connection to one of the socket."""
    while True:
        near, _ = listener.accept()
        far = socket.socket(socket.AF_UNIX)
        far.connect(path)
        for pair in ((near, far), (far, near)):
            threading.Thread(target=copy, args=pair, daemon=True).start()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source is closed."""
    try:
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # The other side has gone; the command sees it and says so.
        return


if __name__ == "__main__":
    sys.exit(main())
