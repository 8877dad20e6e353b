"""Builds the sandbox's file tree from within fresh namespaces, where bubblewrap is not installed.

Started by ``unshare`` as a plain script with one argument, a JSON object: ``root`` (an empty folder),
``mounts`` (as `sandbox.Mount`) and ``command``. It mounts a file system in memory on ``root``, fills it,
makes it the root folder and becomes the command. Numbers are those of Linux's ``<sys/mount.h>``,
``<linux/sockios.h>`` and ``<net/if.h>``.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE = 1, 2, 4, 8, 32, 4096, 16384
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
SET_INTERFACE_FLAGS, UP_AND_RUNNING = 0x8914, 0x41


def enter(plan: dict[str, Any]) -> None:
    """Build the tree, start the loopback interface, and replace this process by the command.

    Raises:
        OSError: the kernel refuses a mount.
    """
    root = plan["root"]
    _mount("tmpfs", root, "tmpfs", NO_SETUID | NO_DEVICES, "mode=0755")
    for mount in plan["mounts"]:
        _apply(root, **mount)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14s", b"lo", UP_AND_RUNNING, b"")
        fcntl.ioctl(any_socket, SET_INTERFACE_FLAGS, request)
    os.chroot(root)
    os.chdir("/")
    _mount("", "/", "", REMOUNT | BIND | READ_ONLY | NO_SETUID | NO_DEVICES)
    os.execv(plan["command"][0], plan["command"])


def _apply(root: str, kind: str, target: str, source: str, size: int) -> None:
    place = root + target
    if kind == "link":
        os.symlink(source, place)
        return
    if kind in ("ro", "rw") and not os.path.isdir(source):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if not os.path.exists(place):
            Path(place).touch()
    else:
        os.makedirs(place, exist_ok=True)
    if kind in ("ro", "rw"):
        _bind(source, place, read_only=kind == "ro")
    elif kind == "tmpfs":
        _mount("tmpfs", place, "tmpfs", NO_SETUID | NO_DEVICES, f"mode=0777,size={size}" if size else "")
    elif kind == "proc":
        _mount_proc(place)
    elif kind == "dev":
        _fill_devices(place)


def _mount_proc(place: str) -> None:
    try:
        _mount("proc", place, "proc", NO_SETUID | NO_DEVICES | NO_EXEC)
    except OSError:
        # Inside a container whose own /proc is partly covered, the kernel allows no new one.
        _bind("/proc", place, read_only=False)


def _fill_devices(place: str) -> None:
    _mount("tmpfs", place, "tmpfs", NO_SETUID, "mode=0755")
    for name in DEVICES:
        Path(place, name).touch()
        _bind(f"/dev/{name}", f"{place}/{name}", read_only=False)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{place}/{name}")
    os.mkdir(f"{place}/shm")
    _mount("tmpfs", f"{place}/shm", "tmpfs", NO_SETUID | NO_DEVICES, "mode=1777")


def _bind(source: str, place: str, *, read_only: bool) -> None:
    _mount(source, place, "", BIND | RECURSIVE)
    if read_only:
        # A remount may not drop the flags that the file system came with.
        kept = os.statvfs(place).f_flag & (NO_SETUID | NO_DEVICES | NO_EXEC | 1024 | 2048)
        _mount("", place, "", REMOUNT | BIND | READ_ONLY | kept)


def _mount(source: str, place: str, kind: str, flags: int, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [text.encode() or None for text in (source, place, kind)]
    if libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {source or kind} on {place}: {os.strerror(number)}")


if __name__ == "__main__":
    enter(json.loads(sys.argv[1]))
