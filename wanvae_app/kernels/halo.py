"""Rows and tokens written straight into the memory of the GPUs beside this one, and a flag behind them.

A message lies in units of 16 bytes. It goes into a place set aside for it in the peer's memory (see `peer_memory.py`);
every program sends a part, raises a flag there, waits for the flag that its twin on the peer raises here, lowers
it, and takes the part that came. So one launch is a whole exchange, no host has a part in it, and since both sides
wait for each other neither can be ahead by more than one. The plain equal is `Shard`'s exchange by messages.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait, globaltimer

# Looks at a flag, some 10 ms, before the first at the host's memory. Such reads take 0.9 us each, one after another:
# 0.2 ms or more for the warps of all programs. A rank that is late for having looked makes its neighbour look.
LOOKS = tl.constexpr(16384)


@triton.jit
def wait(flag, abort, waited, first, TIMED: tl.constexpr):
    """Until *flag is 1, and lower it; or until the host raises *abort. The `first` program adds to *waited the
    nanoseconds that it took."""
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
def _at(u, table, frame, first, step, run, count):
    """Where unit u of a message lies among the frames: of each in `table`, `count` pieces of `run` units."""
    in_frame = u % (run * count)
    slot = tl.load(table + u // (run * count)).to(tl.int64)
    return slot * frame + first + (in_frame // run) * step + in_frame % run


@triton.jit
def _await_edges(finished, expected, programs):
    """Until the kernel before this one, which may not be done, has counted so many parts of its edges; the last of all
    programs that wait makes ready for the next time."""
    while tl.atomic_add(finished, 0, sem="acquire", scope="gpu") < expected:
        pass
    if tl.atomic_add(finished + 1, 1, sem="acq_rel", scope="gpu") == programs - 1:
        tl.store(finished, 0)
        tl.store(finished + 1, 0)
    tl.debug_barrier()


@triton.jit
def _side(
    frames, table, frame, sent, kept, step, run, count, begin, end, finished, expected, programs,
    out, out_flag, came, came_flag, abort, waited, EARLY: tl.constexpr, BLOCK: tl.constexpr, TIMED: tl.constexpr,
):  # fmt: skip
    if EARLY:
        _await_edges(finished, expected, programs)
    p = tl.program_id(0)
    pair = tl.arange(0, 2)[None, :]
    for start in range(begin + p * BLOCK, end, tl.num_programs(0) * BLOCK):
        u = start + tl.arange(0, BLOCK)
        mask = (u < end)[:, None]
        at = _at(tl.minimum(u, end - 1), table, frame, sent, step, run, count)
        v = tl.load(frames + at[:, None] * 2 + pair, mask)
        tl.store(out + (u - begin)[:, None] * 2 + pair, v, mask)
    tl.debug_barrier()
    tl.atomic_xchg(out_flag + p, 1, sem="release", scope="sys")
    wait(came_flag + p, abort, waited, p == 0, TIMED)
    for start in range(begin + p * BLOCK, end, tl.num_programs(0) * BLOCK):
        u = start + tl.arange(0, BLOCK)
        mask = (u < end)[:, None]
        v = tl.load(came + (u - begin)[:, None] * 2 + pair, mask, volatile=True)
        at = _at(tl.minimum(u, end - 1), table, frame, kept, step, run, count)
        tl.store(frames + at[:, None] * 2 + pair, v, mask)


@triton.jit(
    do_not_specialize=[
        "frame", "first", "final", "above", "below", "step", "run", "count", "begin", "end", "expected"
    ]
)  # fmt: skip
def halo_kernel(
    frames,  # int64 words of the frames whose edge rows are sent, and whose border rows are filled
    table,  # int32: which of the frames
    frame, step, run, count,  # in units: from frame to frame, from piece to piece; how long and how many pieces are
    first, final, above, below,  # in units: the edge rows within a frame, and the border rows beside them
    begin, end,  # the units of the message that go this time
    finished,  # with EARLY, int32 [2]: counted up by the kernel that writes the frames
    expected,  # to this, when the edges are there
    out_before, out_after,  # in the peers' memory: where the message goes
    out_before_flags, out_after_flags,  # and the flags, int32, one for every program
    came_before, came_after, came_before_flags, came_after_flags,  # the same in this GPU's memory
    abort,  # int32 [1]
    waited,  # int64 [2]: nanoseconds, for the rank before and the rank behind
    BEFORE: tl.constexpr, AFTER: tl.constexpr,  # whether there is a rank before, and one behind
    EARLY: tl.constexpr,  # started as a dependent of that kernel, while it works on the rest (see `winograd.cu`)
    BLOCK: tl.constexpr,
    TIMED: tl.constexpr,  # the interpreter has no clock
):  # fmt: skip
    programs = tl.num_programs(0) * (2 if BEFORE and AFTER else 1)
    if tl.program_id(1) == 0:
        if BEFORE:
            _side(frames, table, frame, first, above, step, run, count, begin, end, finished, expected, programs,
                  out_before, out_before_flags, came_before, came_before_flags, abort, waited,
                  EARLY, BLOCK, TIMED)  # fmt: skip
    else:
        if AFTER:
            _side(frames, table, frame, final, below, step, run, count, begin, end, finished, expected, programs,
                  out_after, out_after_flags, came_after, came_after_flags, abort, waited + 1,
                  EARLY, BLOCK, TIMED)  # fmt: skip
    if EARLY:
        gdc_wait()  # what comes next may rely on all of it


@triton.jit(do_not_specialize=["num_frames", "num_units", "frame", "place", "rank", "num_ranks"])
def token_kernel(
    mine,  # int64 words [num_frames, num_units, 2]: this rank's tokens
    everyone,  # int64 [num_ranks]: where in each rank's memory [num_frames, frame, 2] words lie
    flags,  # int64 [num_ranks]: and where its flags, int32 [num_ranks, STRIDE], one for every rank's programs
    abort, waited,
    num_frames, num_units, frame, place,  # this rank's part of a frame begins at `place`
    rank, num_ranks,
    BLOCK: tl.constexpr, STRIDE: tl.constexpr, TIMED: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0)
    peer = (rank + tl.program_id(1)) % num_ranks  # itself, and all others
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
