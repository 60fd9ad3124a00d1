"""A folder whose disk can be made small or read-only, in a process that sees a file system of its own.

Linux lets every user do that where user namespaces are allowed; elsewhere `available` is False.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.crashes.children import isolated
from tests.crashes.trials import Problem

_NEWNS, _NEWUSER, _REMOUNT, _READ_ONLY = 0x00020000, 0x10000000, 32, 1


class Disk:
    """A small file system in memory, mounted at a folder."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        _mount(folder, 0, f"size={size}")

    def resize(self, size: int) -> None:
        """Give it this many bytes, and let it be written."""
        _mount(self.folder, _REMOUNT, f"size={size}")

    def make_read_only(self) -> None:
        """Let every write fail with EROFS."""
        _mount(self.folder, _REMOUNT | _READ_ONLY, "")


def on_a_disk(folder: Path, size: int, check: Callable[[Disk], list[Problem]]) -> list[Problem]:
    """The problems that `check` finds in a process in which `folder` is an empty disk of `size` bytes."""

    def enter() -> list[Problem]:
        _enter_namespace()
        return check(Disk(folder, size))

    return isolated(enter)


@cache
def available(folder: Path) -> bool:
    """Whether this machine allows it."""
    return not on_a_disk(folder, 1 << 20, lambda disk: [])


def _enter_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWNS | _NEWUSER):
        raise OSError(ctypes.get_errno(), "no namespace")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path(f"/proc/self/{name}").write_text(text)


def _mount(folder: Path, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options.encode()):
        raise OSError(ctypes.get_errno(), f"cannot mount {folder}")
