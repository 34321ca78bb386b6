"""A file as it stood when it was opened, and whether it still stands so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stamp:
    """Size in bytes and time of modification in ns of a file; None where it was not there.

    Of a file that is read through its mapping for hours: places and times of change, which backups and
    network file systems touch, would end a run for nothing.
    """

    path: Path
    state: tuple[int, int] | None

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The file as it stands now."""
        try:
            found = path.stat()
        except OSError:
            return cls(path, None)
        return cls(path, (found.st_size, found.st_mtime_ns))

    @property
    def stands(self) -> bool:
        """Whether the file is as it was."""
        return Stamp.of(self.path) == self
