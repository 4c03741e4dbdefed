"""What the benchmark finds about one case: measured, or projected."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Projection:
    """One case on `ranks` ranks, projected from the measured slabs of single ranks."""

    ranks: int
    cut: str  # "rows" or "columns"
    slab: int  # latent rows or columns of the largest slab
    length: int  # latent rows or columns of the whole picture
    edge_seconds: float  # of a rank at the picture's edge, which also collects all frames
    interior_seconds: float | None  # of a rank with two neighbours; None if there is none
    num_exchanges: int  # of halo rows, in each chunk but the first
    exchange_us: float  # microseconds of one exchange
    exchange_seconds: float  # of all exchanges and tokens
    seconds: float  # of the whole case
    speedup: float  # over one rank in the same run
    efficiency: float  # speedup / ranks


@dataclass
class Result:
    """One case on `ranks` ranks, measured in several runs.

    Lists are by rank, and shares are of the time of the median run. What waiting, gathering and idling leave of it is a
    rank's own work.
    """

    case: str
    ranks: int
    chunk: int  # latent frames per chunk
    first_seconds: float  # until the first chunk's frames, the median
    seconds: float  # the median
    cold_seconds: float  # of the first run, in which libraries load and kernels are chosen
    waited_share: float  # of the rank that waited longest
    waiting: list[float]  # share: for other ranks' rows and tokens
    # Share: from a rank's last pixels until they have left it, on rank 0 until all ranks' are on its host. In addition,
    # the time that the rank could not go on because earlier pixels were still on their way.
    gathering: list[float]
    idle: list[float]  # share: from then on until the last rank, mostly rank 0, is done
    sent_bytes: list[float]  # rows and tokens to other ranks, per chunk
    least_bytes: list[float]  # the least of these that the model needs per chunk, see `count_traffic`
    frame_bytes: list[float]  # finished pixels to rank 0, per chunk
    peak_gib: float  # of the rank that took most, with weights; on the CPU of the whole process
    peaks_gib: list[float]
    tflop: float  # floating-point operations of the case, in units of 1e12
    speedup: float | None = None  # over one rank in the same run
    efficiency: float | None = None  # speedup / ranks
    peak_shares: list[float] | None = None  # of the peak of one rank in the same run
    limit_share: float | None = None  # of the time, what its operations take at the rate of a matrix product
    diffusers_seconds: dict[str, float] | None = None  # by dtype, in the same run
    projections: list[Projection] | None = None
    watts: float | None = None  # that rank 0's GPU draws in the warm runs, the mean; None without `pynvml`
    megahertz: float | None = None  # of its multiprocessors, the mean
    path: str = ""  # which code codes
    path_reason: str = ""  # why

    def compare(self, one_rank: Result) -> None:
        """Set what is relative to the result on one rank."""
        self.speedup = one_rank.seconds / self.seconds
        self.efficiency = self.speedup / self.ranks
        self.peak_shares = [peak / one_rank.peak_gib for peak in self.peaks_gib]
