"""Figures: what the benchmark found about one case, measured or projected."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Projection:
    """One case on `ranks` ranks, not measured but projected."""

    ranks: int
    cut: str  # "rows" or "columns"
    slab: int  # latent rows or columns that the rank with the most has
    length: int  # of so many
    edge_seconds: float  # a rank at the edge, that also takes all frames to its host
    interior_seconds: float | None  # None where every rank is at an edge
    num_exchanges: int  # of rows, in a chunk after the first
    exchange_us: float  # for one of them
    exchange_seconds: float  # for all, and the tokens
    seconds: float
    speedup: float  # over one rank in the same run
    efficiency: float


@dataclass
class Result:
    """Median seconds of one case on `ranks` ranks. Lists are by rank; shares are of the time of the median run, and
    what waiting, gathering and idle leave of it is a rank's own work."""

    case: str
    ranks: int
    chunk: int
    first_seconds: float  # to the first chunk's frames
    seconds: float
    cold_seconds: float  # the very first time: libraries load, kernels are chosen
    waited_share: float  # of the time, by the rank that waited most for rows
    waiting: list[float]  # for the neighbours' rows and everyone's tokens
    # From a rank's last pixels until they have left it, on rank 0 until everybody's are on its host; and what it had
    # to stand before because earlier ones were still on their way.
    gathering: list[float]
    idle: list[float]  # from then on until the last rank, mostly rank 0, is there too
    sent_bytes: list[float]  # rows and tokens to other ranks, per chunk
    least_bytes: list[float]  # that the model needs, see `count_traffic`
    frame_bytes: list[float]  # finished pixels to rank 0, per chunk
    peak_gib: float  # of the rank that took most; weights included, on the CPU the whole process
    peaks_gib: list[float]
    tflop: float
    speedup: float | None = None  # over one rank in the same run
    efficiency: float | None = None  # speedup / ranks
    peak_shares: list[float] | None = None  # of the one-rank peak in the same run
    limit_share: float | None = None  # the arithmetic's time at the matmul rate, of the time taken
    diffusers_seconds: dict[str, float] | None = None  # by dtype, in the same run
    projections: list[Projection] | None = None  # to more ranks, not measured

    def compare(self, alone: Result) -> None:
        """Fill in what is relative to one rank."""
        self.speedup = alone.seconds / self.seconds
        self.efficiency = self.speedup / self.ranks
        self.peak_shares = [peak / alone.peak_gib for peak in self.peaks_gib]
