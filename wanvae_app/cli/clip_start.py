"""Starts a rank of `decode` or `encode`; see clip_ranks.py. Ctrl-C ends it without a traceback while it imports torch.

python -m wanvae_app.cli.torchrun --nproc-per-node 2 -m wanvae_app.cli.clip_start decode --out DIR IN...
"""

from __future__ import annotations

import sys

from wanvae_app.cli.interrupts import default_on_signals


def main() -> None:
    """Run this rank with this process's arguments."""
    default_on_signals()
    from wanvae_app.cli.clip_ranks import run_rank  # takes seconds

    raise SystemExit(run_rank(sys.argv[1:]))


if __name__ == "__main__":
    main()
