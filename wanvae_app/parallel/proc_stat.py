"""What Linux says of processes and threads in /proc; see proc(5)."""

from __future__ import annotations

from typing import NamedTuple


class Stat(NamedTuple):
    """One process or thread."""

    state: str  # "R" runs, "S" sleeps, "D" waits for a disk, "Z" has ended and was not reaped by its parent
    parent: int  # process id
    cpu_time: int  # clock ticks that it ran


def read_process(pid: int) -> Stat | None:
    """Return the state of a process; None if it is gone, or if this is not Linux."""
    return _read(f"/proc/{pid}/stat")


def read_thread(native_id: int) -> Stat | None:
    """Return the state of a thread of this process; None if it is gone, or if this is not Linux."""
    return _read(f"/proc/self/task/{native_id}/stat")


def _read(path: str) -> Stat | None:
    try:
        with open(path) as file:
            fields = file.read().rpartition(")")[2].split()  # the name before them may hold spaces
    except OSError:
        return None
    state, parent, user_time, system_time = fields[0], fields[1], fields[11], fields[12]
    return Stat(state, int(parent), int(user_time) + int(system_time))
