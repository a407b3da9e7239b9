"""Locks of open files and of run folders. The operating system releases them when the process ends, even after SIGKILL."""

import os
import time
from pathlib import Path
from weakref import WeakValueDictionary

from common.errors import RunFolderError

try:
    import fcntl
except ImportError:  # a system without flock
    fcntl = None  # type: ignore[assignment]

WAIT = 10.0  # seconds for a command that was just killed, or its image-loading processes, to end
PAUSE = 0.1  # seconds between two attempts
LOCK = ".lock"  # file in a folder that cannot be locked itself, as on NFS


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder; return False if another process holds the lock, None if it cannot be locked."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without this kind of lock
        return None
    return True


def is_locked(path: Path) -> bool:
    """Return whether another process holds the lock of a file or folder, which is not changed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return False
    try:
        return try_lock(descriptor) is False
    finally:
        os.close(descriptor)


class FolderLock:
    """A lock of a folder, held as long as this object is used."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)


_held: WeakValueDictionary[tuple[int, int], FolderLock] = WeakValueDictionary()  # by device and inode of the folder


def lock_folder(folder: Path) -> FolderLock | None:
    """Lock an existing folder against other processes; this process may lock it again. None on a system without locks.

    Raises RunFolderError if another process still holds the lock after ``WAIT`` seconds.
    """
    status = folder.stat()
    identity = status.st_dev, status.st_ino
    if identity in _held:
        return _held[identity]
    end = time.monotonic() + WAIT
    while (lock := _try_folder(folder)) is False:
        if time.monotonic() > end:
            raise RunFolderError(
                f"{folder}: another command is working in this folder; wait until it ends, or choose another folder"
            )
        time.sleep(PAUSE)
    if lock is None:
        return None
    return _held.setdefault(identity, FolderLock(lock))


def _try_folder(folder: Path) -> int | bool | None:
    """Return a descriptor that holds the lock, or False or None as :func:`try_lock`."""
    for place, flags in ((folder, os.O_RDONLY), (folder / LOCK, os.O_RDWR | os.O_CREAT)):
        try:
            descriptor = os.open(place, flags | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            continue
        locked = try_lock(descriptor)
        if locked:
            return descriptor
        os.close(descriptor)
        if locked is False:
            return False
        if fcntl is None:
            break
    return None
