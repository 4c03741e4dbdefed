"""Starts torchrun for `launch.py`; see elastic.py. Ctrl-C ends it without a traceback, also while it imports torch.

python -m wanvae_app.cli.torchrun --nproc-per-node 2 app.py
"""

from __future__ import annotations

from wanvae_app.cli.interrupts import end_on_interrupt


def main() -> None:
    """Run torchrun with this process's arguments."""
    end_on_interrupt()
    from wanvae_app.cli.elastic import run_torchrun  # takes seconds

    run_torchrun()


if __name__ == "__main__":
    main()
