"""Write files completely or not at all; name their temporary files and remove those of killed writers."""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from gzip import GzipFile
from pathlib import Path

from lmcbench.errors import UserError
from lmcbench.spec.canonical import digest_bytes

STALE = 3600.0
"""Seconds without a write after which a temporary file of another host is orphaned: its writer was killed."""

NAME_BYTES = 180
"""Bytes of a file's name that its temporary file repeats; file systems allow 255 in all."""

_PROCESS = secrets.token_hex(4)
_PARTIAL = re.compile(
    r"\..+\.(?:(?P<host>[A-Za-z0-9_]+)-(?P<pid>[0-9]{1,9})-(?P<token>[0-9a-f]{14})|[0-9]+)\.partial",
    re.DOTALL,
)
"""With the process id alone: names of earlier versions."""


class WriteError(UserError):
    """A file that cannot be written, as on a full disk; the file that was there before is unchanged."""

    strerror: str | None = None
    """The system's reason, as of an `OSError`."""


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all; raises `WriteError`."""
    encoded = content.encode() if isinstance(content, str) else content
    with replacing(path) as partial:
        partial.write_bytes(encoded)


def create_from(draft: Path, path: Path) -> None:
    """Give `draft` the name `path`; raises `FileExistsError` if that exists, or `WriteError`."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the last of several processes wins
        with replacing(path) as partial:
            draft.replace(partial)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` at the end.

    The file is flushed to disk before it is renamed, so that `path` is complete even after a power failure,
    which may only undo the rename.

    Raises:
        WriteError: for a folder, and for an `OSError` in the block or in here; it names `path`.
    """
    if os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises where a folder above is locked)
        raise WriteError(f"{path} cannot be written: it is a folder. Name a file.")
    partial = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        if partial.stat().st_mode != mode:  # renamed from a library's temporary file, which is private
            with suppress(OSError):  # a file system without permissions
                partial.chmod(stat.S_IMODE(mode))
        partial.replace(path)
    except OSError as error:
        failed = WriteError(f"{path} cannot be written: {error.strerror or error}.")
        failed.strerror = error.strerror
        raise failed from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def check_folder(option: str, path: Path) -> None:
    """Raise `UserError` unless a file can be written to the folder of `path`, which `option` gave."""
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: the folder {path.parent} does not exist. Create it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(
            f"{option} {path}: the folder {path.parent} is read-only. Name a file in another one."
        )


def compress(content: bytes) -> bytes:
    """Return `content` as gzip without time and file name, so that equal content gives equal bytes."""
    buffer = io.BytesIO()
    with GzipFile("", "wb", 9, buffer, mtime=0) as file:
        file.write(content)
    return buffer.getvalue()


def partial_path(path: Path) -> Path:
    """Return a temporary path beside `path` that no other writer has: `.NAME.HOST-PID-TOKEN.partial`."""
    name = path.name.encode("utf-8", "ignore")[:NAME_BYTES].decode("utf-8", "ignore")
    token = _PROCESS + secrets.token_hex(3)
    return path.with_name(f".{name}.{host_id()}-{os.getpid()}-{token}.partial")


def is_partial(path: Path) -> bool:
    """Return whether the name of `path` is one that `partial_path` returns, or did in earlier versions."""
    return _PARTIAL.fullmatch(path.name) is not None


@cache
def host_id() -> str:
    """Return a short name of the host, different for each set of process ids.

    Containers may share a host name, but they have process ids of their own; so has a host after a restart.
    """
    name = socket.gethostname()
    parts = [name]
    with suppress(OSError):  # not on Linux
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        parts += [boot, str(Path("/proc/self/ns/pid").readlink())]
    short = re.sub(r"[^A-Za-z0-9]+", "_", name)[:16]
    return f"{short}_{digest_bytes(' '.join(parts).encode('utf-8', 'replace'))[:8]}"


def remove_orphans(folder: Path) -> None:
    """Remove temporary files and folders of killed writers from `folder` and its subfolders.

    Those of this host are removed if their process has ended, all others after an hour without a write.
    """
    for path in [*folder.glob(".*.partial"), *folder.glob("*/.*.partial")]:
        with suppress(OSError):  # removed meanwhile by its writer or by another run, or not ours to remove
            if _is_orphaned(path):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _is_orphaned(path: Path) -> bool:
    found = _PARTIAL.fullmatch(path.name)
    if found is None:
        return False
    if found["host"] == host_id() and not is_running(int(found["pid"]), found["token"]):
        return True
    paths = [path]
    if path.is_dir() and not path.is_symlink():
        paths += path.rglob("*")
    last_write = max(p.lstat().st_mtime for p in paths)
    return time.time() - last_write > STALE


def process_token() -> str:
    """Return a random name of this process; process ids are used again."""
    return _PROCESS


def is_running(pid: int, token: str) -> bool:
    """Return whether a process of this host runs; `token` begins with its `process_token`."""
    if pid == os.getpid():  # an earlier process may have had the same id
        return token.startswith(_PROCESS)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        pass
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Return whether a process has ended and its parent has not asked for its exit code; known on Linux."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return state[:1] in ([b"Z"], [b"X"])
