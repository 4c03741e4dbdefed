"""What the system says of processes and threads: Linux in /proc, see proc(5), other systems through ps(1)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
PS_SECONDS = 5.0  # for ps to answer


class Stat(NamedTuple):
    """One process or thread."""

    state: str  # "R" runs, "S" sleeps, "D" waits for a disk, "Z" has ended and was not reaped by its parent
    parent: int  # process id
    cpu_time: int  # clock ticks that it ran; 0 where ps told


def has_proc() -> bool:
    """Whether this system has a /proc like Linux's."""
    return (PROC / "self" / "stat").exists()


def read_process(pid: int) -> Stat | None:
    """Return the state of a process; None if it is gone.

    A process counts as sleeping where the system does not tell: nobody is to be taken for dead without evidence.
    """
    if has_proc():
        return _read(PROC / str(pid) / "stat")
    told = _ask_ps("-o", "stat=", "-o", "ppid=", "-p", str(pid))
    if told is None:
        return Stat("S", 0, 0)
    fields = told.split()
    return Stat(fields[0][0], int(fields[1]), 0) if fields else None


def read_thread(native_id: int) -> Stat | None:
    """Return the state of a thread of this process; None if it is gone, or if this is not Linux."""
    return _read(PROC / "self" / "task" / str(native_id) / "stat")


def read_command(pid: int) -> str:
    """Return the command line of a process; "" if it is gone."""
    if not has_proc():
        return _ask_ps("-o", "command=", "-p", str(pid)) or ""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's children; none if it is gone."""
    if not has_proc():
        pairs = (line.split() for line in (_ask_ps("-A", "-o", "pid=", "-o", "ppid=") or "").splitlines())
        return [int(child) for child, parent in pairs if int(parent) == pid]
    try:
        # Any thread may have started processes; each thread lists its own.
        listed = [file.read_text() for file in (PROC / str(pid) / "task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for child in " ".join(listed).split()]


def _read(path: Path) -> Stat | None:
    try:
        fields = path.read_text().rpartition(")")[2].split()  # the name before them may hold spaces
    except OSError:
        return None
    state, parent, user_time, system_time = fields[0], fields[1], fields[11], fields[12]
    return Stat(state, int(parent), int(user_time) + int(system_time))


def _ask_ps(*arguments: str) -> str | None:
    """Return what ps prints, which is nothing for a process that is gone; None if ps gives no answer."""
    try:
        found = subprocess.run(
            ["ps", *arguments], capture_output=True, text=True, timeout=PS_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout
