"""Limits of a process that reads a file which is not trusted: computing time, memory, open files, bytes written."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

# Of a process that reads a latent:
CPU_SECONDS = 30  # for a small file
BYTES_PER_CPU_SECOND = 2**26  # of a larger one
MAX_CPU_SECONDS = 120
WALL_FACTOR = 3  # seconds per second of computing: disks and other processes take time
MEMORY_BYTES = 2**29  # for a small file
# Per byte of a larger one: values of 8 bits become float32, and checking them takes two more copies.
MEMORY_PER_BYTE = 16
MAX_MEMORY_BYTES = 12 * 2**30
MAX_RESULT_BYTES = 2**30
# Sets limits and becomes the command. A limit that the system lacks, or that is lower already, stays as it is.
SHELL = """
limit() { ulimit "$@" 2>/dev/null || :; }
export MALLOC_ARENA_MAX=2  # each arena takes 64 MiB of address space
limit -c 0; limit -t "$1"; limit -v "$2"; limit -n "$3"; limit -f "$4"; shift 4; exec "$@"
"""


@dataclass(frozen=True)
class Limits:
    """What a process may use; it is killed, or its requests fail, beyond that.

    Linux enforces all four, macOS all but the memory.
    """

    cpu_seconds: int  # of all its threads together
    memory_bytes: int  # of its address space, which is more than it uses
    written_bytes: int = 0  # of any one file
    open_files: int = 64
    is_background: bool = False  # whether `command` gives it the lowest priority

    def command(self, arguments: list[str]) -> list[str]:
        """A command line that runs the command with these limits. Takes a millisecond more to start.

        A process that has threads cannot set limits between fork and exec, as it must not run Python there.
        """
        blocks = self.written_bytes // 512  # in which POSIX states ulimit -f
        limits = (self.cpu_seconds, self.memory_bytes // 1024, self.open_files, blocks)
        priority = ["nice", "-n", "19"] if self.is_background else []
        return ["/bin/sh", "-c", SHELL, "sh", *map(str, limits), *priority, *arguments]

    def apply(self) -> None:
        """Set these limits for this process. The memory comes on top of what it has now."""
        limits = [
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_CPU, self.cpu_seconds),
            (resource.RLIMIT_NOFILE, self.open_files),
            (resource.RLIMIT_FSIZE, self.written_bytes),
        ]
        if sys.platform == "linux":
            limits.append((resource.RLIMIT_AS, _address_space() + self.memory_bytes))
        for kind, value in limits:
            _, hard = resource.getrlimit(kind)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            with contextlib.suppress(ValueError, OSError):  # a system without this limit
                resource.setrlimit(kind, (value, value))


def limits_for(num_bytes: int) -> Limits:
    """The limits for reading a file of this size."""
    return Limits(
        cpu_seconds=min(CPU_SECONDS + num_bytes // BYTES_PER_CPU_SECOND, MAX_CPU_SECONDS),
        # The file may be mapped.
        memory_bytes=MEMORY_BYTES + num_bytes + min(MEMORY_PER_BYTE * num_bytes, MAX_MEMORY_BYTES),
        written_bytes=MAX_RESULT_BYTES,
    )


def _address_space() -> int:
    """Bytes of this process's address space."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    return num_pages * os.sysconf("SC_PAGE_SIZE")
