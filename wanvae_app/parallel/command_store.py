"""CommandStore: what rank 0 tells the other ranks to do, and why they failed, as text on torchrun's store.

A rank that waits there for its next command costs nothing, even for a month.
"""

from __future__ import annotations

import json
import logging
import os
import time
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed does not declare them

from wanvae_app.parallel.network import serve_store
from wanvae_app.parallel.signature import sign, verify

log = logging.getLogger(__name__)

FORGERY_PAUSE = 1.0  # seconds between two looks at a command that was not signed
JOIN_TIMEOUT = timedelta(minutes=5)
COMMAND_TIMEOUT = timedelta(days=30)
LAST_WORDS = "last words"  # key of the reason for which these ranks are being restarted


def open_store(attempt: int, size: int, is_server: bool = False) -> Store:
    """Open a client of the store at MASTER_ADDR and MASTER_PORT; with `is_server` start the store as well.

    torchrun's store outlives a restart of the ranks. `attempt` counts these restarts and keeps what earlier ranks wrote
    out of sight. A client that waits blocks all its users, so each user needs one of its own.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if is_server:
        store = serve_store(host, port, size, JOIN_TIMEOUT)
    else:
        store = TCPStore(host, port, size, False, timeout=JOIN_TIMEOUT, wait_for_workers=False)
    return PrefixStore(f"wanvae/{attempt}", store)


def failure_key(number: int) -> str:
    """Return the key of the reason for which the job fails that command `number` started."""
    return f"failure/{number}"


class CommandStore:
    """Commands from rank 0 to all other ranks, numbered from 1, and the failures of the jobs that they start.

    `store` is None for a single rank.
    """

    def __init__(self, store: Store | None) -> None:
        self.number = 0  # of the last command
        self._store = store
        self._reason = ""  # what a single rank announced

    def post(self, command: dict[str, Any]) -> None:
        """Rank 0: give all other ranks their next command, which JSON can hold.

        All ranks must have agreed since the last command.
        """
        self.number += 1
        if self._store is not None:
            key = f"command/{self.number}"
            self._store.set(key, sign(json.dumps(command), key))
            # All ranks have agreed since they read the last command, so none needs it any more.
            self._store.delete_key(f"command/{self.number - 1}")
            self._store.delete_key(failure_key(self.number - 1))

    def wait(self) -> dict[str, Any]:
        """The other ranks: wait for the next command. Raises RuntimeError when the store is gone."""
        assert self._store is not None
        self.number += 1
        key = f"command/{self.number}"
        self._store.wait([key], COMMAND_TIMEOUT)
        while (text := verify(self._store.get(key).decode(errors="replace"), key)) is None:
            log.warning("a command that rank 0 did not sign is ignored: somebody else writes to the store")
            time.sleep(FORGERY_PAUSE)  # rank 0 writes its own over it
        command: dict[str, Any] = json.loads(text)
        return command

    def announce_failure(self, reason: str) -> bool:
        """Announce that the present job failed on this rank; return whether this rank is the first."""
        self._reason = reason
        if self._store is None:
            return True
        return bool(self._store.compare_set(failure_key(self.number), "", reason) == reason.encode())

    def failure_reason(self) -> str:
        """Return what was announced first in the present job."""
        if self._store is None:
            return self._reason
        return self._store.get(failure_key(self.number)).decode()
