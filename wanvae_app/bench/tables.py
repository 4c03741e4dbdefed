"""The benchmark's results as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wanvae_app.bench.projection import TOKEN_BANDWIDTH
from wanvae_app.bench.results import Result

TIME_HEADINGS = (
    "work", "ranks", "chunk", "first frames", "all", "cold", "frames/s", "speed-up", "waiting", "peak", "of limit",
    "power, clock", "diffusers",
)  # fmt: skip
RANK_HEADINGS = (
    "work", "ranks", "speed-up", "efficiency", "waiting", "gathering", "idle", "sent/chunk", "of least",
    "frames/chunk", "peak, of one rank's",
)  # fmt: skip
PROJECTION_HEADINGS = (
    "work", "ranks", "slab", "edge", "interior", "exchanges/chunk", "exchanging", "projected", "speed-up",
    "efficiency",
)  # fmt: skip
RANKS_LEGEND = (
    "By rank, rank 0 first, in shares of the time: waiting for the others' rows and tokens, gathering (from its last "
    "pixels until they have left it, on rank 0 until all frames are on the host, and what earlier ones held it up), "
    "and idle from then on. Rows and tokens to other ranks, and frames to rank 0, are of all ranks together."
)


def table_head(headings: Sequence[str]) -> str:
    """The first two lines of a table: headings, and the line below them."""
    return f"{table_row(headings)}\n{'|---' * len(headings)}|"


def time_row(r: Result) -> str:
    """One line of the table with TIME_HEADINGS."""
    diffusers = (r.diffusers_seconds or {}).items()
    return table_row(
        [
            r.case,
            r.ranks,
            r.chunk,
            f"{r.first_seconds:.3f} s",
            f"{r.seconds:.3f} s",
            f"{r.cold_seconds:.2f} s",
            f"{int(r.case.rpartition('x')[2]) / r.seconds:.1f}",
            "" if r.speedup is None else f"{r.speedup:.2f}x",
            f"{r.waited_share:.0%}",
            f"{r.peak_gib:.2f} GiB",
            "" if r.limit_share is None else f"{r.limit_share:.0%}",
            "" if r.watts is None or r.megahertz is None else f"{r.watts:.0f} W, {r.megahertz:.0f} MHz",
            ", ".join(f"{name} {seconds:.2f} s ({seconds / r.seconds:.1f}x)" for name, seconds in diffusers),
        ]
    )


def ranks_table(results: Iterable[Result]) -> str:
    """Where the time of several ranks went, and what they sent, with a legend above."""
    lines = [RANKS_LEGEND, "", table_head(RANK_HEADINGS)]
    for r in results:
        if r.ranks > 1:
            sent, least = sum(r.sent_bytes), sum(r.least_bytes)
            cells: list[object] = [
                r.case,
                r.ranks,
                "" if r.speedup is None else f"{r.speedup:.2f}x",
                "" if r.efficiency is None else f"{r.efficiency:.0%}",
                *(_shares(shares) for shares in (r.waiting, r.gathering, r.idle)),
                f"{sent / 1e6:.2f} MB",
                f"{sent / least:.2f}x" if least else "",
                f"{sum(r.frame_bytes) / 1e6:.2f} MB",
                _shares(r.peak_shares or []),
            ]
            lines.append(table_row(cells))
    return "\n".join(lines)


def projection_table(results: Iterable[Result], origin: str) -> str:
    """What more ranks would take; `origin` says where the time of one exchange is from. "" without projections."""
    lines: list[str] = []
    for r in results:
        for p in r.projections or ():
            lines = lines or [
                "Projection, not measured: each rank coded its slab alone, on this device, and exchanges were added, "
                f"at {p.exchange_us:.1f} us {origin}, and tokens at {TOKEN_BANDWIDTH / 1e9:g} GB/s.",
                "",
                table_head(PROJECTION_HEADINGS),
            ]
            cells: list[object] = [
                r.case,
                p.ranks,
                f"{p.slab} of {p.length} {p.cut}",
                f"{p.edge_seconds:.3f} s",
                "" if p.interior_seconds is None else f"{p.interior_seconds:.3f} s",
                p.num_exchanges,
                f"{p.exchange_seconds:.4f} s",
                f"{p.seconds:.3f} s",
                f"{p.speedup:.2f}x",
                f"{p.efficiency:.0%}",
            ]
            lines.append(table_row(cells))
    return "\n".join(lines)


def _shares(shares: Sequence[float]) -> str:
    return f"{'/'.join(f'{100 * share:.0f}' for share in shares)}%"


def table_row(cells: Iterable[object]) -> str:
    """One line of a table."""
    return f"| {' | '.join(map(str, cells))} |"
