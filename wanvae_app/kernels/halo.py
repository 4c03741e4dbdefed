"""Exchanges between GPUs: rows and tokens are written straight into the peer's memory, and flags behind them.

One launch is a whole exchange, without the host. A message has a place in the peer's memory (see `mailbox.py`) and is
counted in units of 16 bytes. Each program

1. writes its part of the message into the peer's memory and raises a flag there,
2. waits for the flag that the same program of the peer raises in this GPU's memory, and lowers it,
3. takes its part of the message that came.

Because both sides wait for each other, neither is ahead of the other by more than one exchange. The plain equal is
`Shard`'s exchange by messages. `parallel/peer_memory.py` launches these kernels.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait, globaltimer

# Looks at a flag between two looks at `abort`, which lies in the host's memory: about 10 ms. A look there takes 0.9 us,
# and the warps of all programs look one after another, in 0.2 ms or more. A rank that is late for having looked keeps
# its neighbour waiting, which then looks as well.
LOOKS = tl.constexpr(16384)


@triton.jit
def wait(flag, abort, waited, first, TIMED: tl.constexpr):
    """Wait until *flag is 1 and lower it, or until the host sets *abort to 1.

    With TIMED the `first` program adds the nanoseconds that it waited to *waited.
    """
    if TIMED:
        begun = globaltimer()
    got = tl.atomic_cas(flag, 1, 0, sem="acquire", scope="sys")
    looks = 0
    while got == 0:
        got = tl.atomic_cas(flag, 1, 0, sem="acquire", scope="sys")
        looks += 1
        if looks % LOOKS == 0:
            got += tl.load(abort, volatile=True)
    if TIMED and first:
        tl.atomic_add(waited, (globaltimer() - begun).to(tl.int64))
    tl.debug_barrier()


@triton.jit
def _locate(u, table, frame, first, step, run, count):
    """Return where unit u of a message lies in the frames, in units.

    Of each frame in `table` the message has `count` pieces of `run` units. Frames are `frame` units long; pieces begin
    at unit `first` and every `step` units behind it.
    """
    in_frame = u % (run * count)
    slot = tl.load(table + u // (run * count)).to(tl.int64)
    return slot * frame + first + (in_frame // run) * step + in_frame % run


@triton.jit
def _await_edges(finished, expected, programs):
    """Wait until the launch ahead, which may still run, has made all `expected` parts of its edges.

    The last one of `programs` that wait sets both counters in `finished` to zero again.
    """
    while tl.atomic_add(finished, 0, sem="acquire", scope="gpu") < expected:
        pass
    if tl.atomic_add(finished + 1, 1, sem="acq_rel", scope="gpu") == programs - 1:
        tl.store(finished, 0)
        tl.store(finished + 1, 0)
    tl.debug_barrier()


@triton.jit
def _exchange_side(
    frames, table, frame, sent, kept, step, run, count, begin, end, finished, expected, programs,
    out, out_flag, came, came_flag, abort, waited, EARLY: tl.constexpr, BLOCK: tl.constexpr, TIMED: tl.constexpr,
):  # fmt: skip
    """Exchange units `begin` to `end` of the messages with one neighbour.

    What is sent begins at unit `sent` of a frame, and what comes is kept from unit `kept` on.
    """
    if EARLY:
        _await_edges(finished, expected, programs)
    p = tl.program_id(0)
    pair = tl.arange(0, 2)[None, :]
    for start in range(begin + p * BLOCK, end, tl.num_programs(0) * BLOCK):
        u = start + tl.arange(0, BLOCK)
        mask = (u < end)[:, None]
        at = _locate(tl.minimum(u, end - 1), table, frame, sent, step, run, count)
        v = tl.load(frames + at[:, None] * 2 + pair, mask)
        tl.store(out + (u - begin)[:, None] * 2 + pair, v, mask)
    tl.debug_barrier()
    tl.atomic_xchg(out_flag + p, 1, sem="release", scope="sys")
    wait(came_flag + p, abort, waited, p == 0, TIMED)
    for start in range(begin + p * BLOCK, end, tl.num_programs(0) * BLOCK):
        u = start + tl.arange(0, BLOCK)
        mask = (u < end)[:, None]
        v = tl.load(came + (u - begin)[:, None] * 2 + pair, mask, volatile=True)
        at = _locate(tl.minimum(u, end - 1), table, frame, kept, step, run, count)
        tl.store(frames + at[:, None] * 2 + pair, v, mask)


@triton.jit(
    do_not_specialize=[
        "frame", "first", "final", "above", "below", "step", "run", "count", "begin", "end", "expected"
    ]
)  # fmt: skip
def halo_kernel(
    frames,  # int64 words, two for a unit: the frames whose edges are sent and whose borders are filled
    table,  # int32: indices of these frames
    frame,  # units of a frame
    step,  # units from one piece of an edge to the next
    run,  # units of a piece
    count,  # pieces of an edge in a frame
    first, final,  # units of a frame at which the first and the last edge begin
    above, below,  # units of a frame at which the borders beside them begin
    begin, end,  # units of the message that travel in this launch
    finished,  # with EARLY int32 [2]: see `mailbox.EarlyHalo`
    expected,  # with EARLY: parts of the edges
    out_before, out_after,  # int64, in the peers' memory: where the messages go
    out_before_flags, out_after_flags,  # int32 [PROGRAMS], in the peers' memory
    came_before, came_after, came_before_flags, came_after_flags,  # the same in this GPU's memory, for what comes
    abort,  # int32 [1], in the host's memory: 1 ends all waiting
    waited,  # int64 [2]: nanoseconds waited for the rank before and the rank behind
    BEFORE: tl.constexpr, AFTER: tl.constexpr,  # whether there is a rank before, and one behind
    EARLY: tl.constexpr,  # whether the kernel that writes the frames may still run (see `winograd.cu`)
    BLOCK: tl.constexpr,  # units that a program moves at a time
    TIMED: tl.constexpr,  # whether to measure the waiting; Triton's interpreter has no clock
):  # fmt: skip
    """Programs: (at most PROGRAMS, 2). The second index is 0 for the rank before, 1 for the rank behind."""
    programs = tl.num_programs(0) * (2 if BEFORE and AFTER else 1)
    if tl.program_id(1) == 0:
        if BEFORE:
            _exchange_side(frames, table, frame, first, above, step, run, count, begin, end,
                           finished, expected, programs,
                           out_before, out_before_flags, came_before, came_before_flags, abort, waited,
                           EARLY, BLOCK, TIMED)  # fmt: skip
    else:
        if AFTER:
            _exchange_side(frames, table, frame, final, below, step, run, count, begin, end,
                           finished, expected, programs,
                           out_after, out_after_flags, came_after, came_after_flags, abort, waited + 1,
                           EARLY, BLOCK, TIMED)  # fmt: skip
    if EARLY:
        gdc_wait()  # a launch behind this one may read all that the launch ahead wrote


@triton.jit(do_not_specialize=["num_frames", "num_units", "frame", "place", "rank", "num_ranks"])
def token_kernel(
    mine,  # int64 words [num_frames, num_units, 2]: this rank's tokens
    everyone,  # int64 [num_ranks]: address in each rank's memory of all tokens, int64 words [num_frames, frame, 2]
    flags,  # int64 [num_ranks]: address of each rank's flags, int32 [num_ranks, STRIDE]: of sender and program
    abort, waited,  # as for `halo_kernel`
    num_frames, num_units,
    frame,  # units of all ranks' tokens of a frame
    place,  # unit of a frame at which this rank's tokens begin
    rank, num_ranks,
    BLOCK: tl.constexpr, STRIDE: tl.constexpr, TIMED: tl.constexpr,
):  # fmt: skip
    """Programs: (at most STRIDE, num_ranks). The second index counts ranks from this one on."""
    p = tl.program_id(0)
    peer = (rank + tl.program_id(1)) % num_ranks
    out = tl.multiple_of(tl.load(everyone + peer).to(tl.pointer_type(tl.int64)), 16)
    pair = tl.arange(0, 2)[None, :]
    end = num_frames * num_units
    for start in range(p * BLOCK, end, tl.num_programs(0) * BLOCK):
        u = start + tl.arange(0, BLOCK)
        mask = (u < end)[:, None]
        v = tl.load(mine + u[:, None] * 2 + pair, mask)
        at = u // num_units * frame + place + u % num_units
        tl.store(out + at[:, None] * 2 + pair, v, mask)
    if peer != rank:
        theirs = tl.load(flags + peer).to(tl.pointer_type(tl.int32)) + rank * STRIDE + p
        ours = tl.load(flags + rank).to(tl.pointer_type(tl.int32)) + peer * STRIDE + p
        tl.debug_barrier()
        tl.atomic_xchg(theirs, 1, sem="release", scope="sys")
        wait(ours, abort, waited, p == 0, TIMED)
