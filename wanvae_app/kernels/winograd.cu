// Causal 3x3x3 convolutions of padded frames by Winograd's F(2, 3) along time: `winograd.py` compiles and starts this.
//
// For two frames out, y0 and y1, and the four that they see, d0 to d3, with the time taps g0, g1, g2:
//   m0 = (d0 - d2) * g0                  y0 = m0 + m1 + m2
//   m1 = (d1 + d2) * (g0 + g1 + g2) / 2  y1 = m1 - m2 - m3
//   m2 = (d2 - d1) * (g0 - g1 + g2) / 2
//   m3 = (d1 - d3) * g2
// Four 3x3 convolutions in place of six. A block computes 8 x 16 pixels of both frames for BN channels. One thread
// keeps the copy engine busy: it fetches 10 x 18 pixels of four frames for 32 channels, then for each of the nine
// taps the four products' weights. Three warps add and subtract these pixels where they lie. Two groups of four warps
// each have 8 x 8 pixels multiplied: the tensor cores read what a tap sees from shared memory themselves. A matrix
// descriptor takes eight rows of eight pixels at any offset, because the swizzle goes by the address. So the neighbourhood
// of a pixel crosses the L2 cache once, not nine times, and is transformed once.
//
// What limits the chip is power, so two blocks share weights wherever they can: a cluster takes the same channels of
// two places, each of its blocks fetches half of a step's weights, and the copy engine writes that half into both.
// (Where a norm is over two blocks' channels, these are the cluster, and each fetches its own.)
//
// Results leave through the same ring of buffers as weights come: the residual is fetched into one before it is due,
// the sum takes its place and is stored by the copy engine while the next tile is under way.
//
// With FOUR it is F(4, 3) instead: four frames out of the six, d0 to d5, that they see, by polynomials in 0, +-A, +-B
// and infinity: six 3x3 convolutions in place of twelve.
//   m0, m1 = (d4 - B^2 d2 +- A (d3 - B^2 d1)) * g(+-A)    g(p) = (g0 + p g1 + p^2 g2) / (2 A^2 (A^2 - B^2)), and for
//   m2, m3 = (d4 - A^2 d2 +- B (d3 - A^2 d1)) * g(+-B)    B with A and B exchanged
//   m4 = (d4 - (A^2 + B^2) d2 + (A B)^2 d0) * g0 / (A B)^2
//   m5 = (d5 - (A^2 + B^2) d3 + (A B)^2 d1) * g2
//   y0 = m0 + m1 + m2 + m3 + m4                           y1 = A (m0 - m1) + B (m2 - m3)
//   y2 = A^2 (m0 + m1) + B^2 (m2 + m3)                    y3 = A^3 (m0 - m1) + B^3 (m2 - m3) + m5
// There are registers for four sums. So a first pass over the channels makes m0 to m3, which then become y0 to y3 where
// they stand; y1 and y2 leave. A second pass adds m4 and m5 to y0 and y3, 64 channels at a time: like the first, a step
// takes four frames' pixels, and for each tap four products' weights.
//
// Six frames do not fit a step, so whoever writes them transforms them: what is read is what the products multiply.
//
// With NORM, where the picture is cut its edges come first, and whoever waits for them is told of each: the kernel
// behind this one, if it is started as its dependent, sends them to the neighbours while the last tiles are under way.
//
// Every cluster takes as many tiles as the others. What is left then may be for another launch, in smaller ones:
// started as this one's dependent it takes what multiprocessors become free, and it is done when both are.
//
// Set by the host: BN (channels of a block, a multiple of 32), FOUR, RESIDUAL, NORM, HALF (type of bias, residual, gamma
// and out is fp16, not bf16), PAIR (a cluster takes two places, not the two blocks of channels that a norm is over),
// STAGES, multiply(), REGS.

constexpr int SUM_AT = B_AT + STAGES * B_BYTES;  // without PAIR: float [2][2 blocks][2][128]
constexpr int BAR_AT = SUM_AT + (PAIR ? 0 : 2 * 2 * 2 * 128 * 4);
constexpr int PER = FOUR ? 4 : 2;  // frames of a tile
constexpr float A = 11.f / 16, B = 23.f / 16;  // see `winograd.POINTS`

// The four products of one tap and 32 channels, or with `ends` two of 64, under way when this returns.
DEV void products(float (&acc)[4][REGS], u64 pixels, u64 weights, int add_to, bool ends) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < 2; ++k)
#pragma unroll
        for (int j = 0; j < 4; ++j)
            multiply(acc[ends ? (j & 1) * 3 : j], pixels + j * (FRAME >> 4) + 2 * k, weights + j * (PART >> 4) + 2 * k,
                     k > 0 || (ends && j > 1) || add_to);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Eight channels of a pixel in four frames, at the same place in each one's tile, become what four products multiply.
DEV void transform(u32 at) {
    u32 d[4][4];
#pragma unroll
    for (int j = 0; j < 4; ++j) load_words(d[j], at + j * FRAME);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const u32 one = d[1][i], two = d[2][i];
        d[0][i] = sub(d[0][i], two);
        d[3][i] = sub(one, d[3][i]);
        d[1][i] = add(one, two);
        d[2][i] = sub(two, one);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) store_words(at + j * FRAME, d[j]);
}

// Which of a tile's frames leave after the first pass, and after the second.
DEV int frame_of(int t, int f, bool ends) { return t + (!FOUR ? f : ends ? 3 * f : 1 + f); }

// Which channels, frames and pixels a tile is: neighbours share what they read.
DEV int where_of(int tile, int rank, int blocks) { return PAIR ? tile / blocks * 2 + rank : tile; }
#define PLACE \
    const int where = where_of(tile, rank, across), n0 = (PAIR ? tile % across : rank) * BN; \
    const int t = where % groups * PER; \
    const Spot spot = spot_of(where / groups, columns, (H + TH - 1) / TH, NORM ? cut : 0);

extern "C" __global__ void __launch_bounds__(384, 1)
__cluster_dims__(2, 1, 1)
winograd_kernel(
    const __grid_constant__ Map frames,   // padded frames fp16 [slots, H + 2, W + 2, C], box [1, 10, 18, 32]
    const __grid_constant__ Map weights,  // fp16 [9 taps, 4 or 6 products, N, C], box [1, 2, BN, 32]
    const __grid_constant__ Map shortcut, // residual [T, H, W, N], box [1, 8, 8, 32]
    const __grid_constant__ Map target,   // [T, H, W, N], or with NORM the insides of padded frames; box [1, 2, 8, 32]
    const int* slots,                     // [T + 2]: where past and present frames lie; FOUR: [T / 4, 6] products'
    const u16* bias,                      // [N]
    const u16* gamma,                     // [N]
    const int* out_slots,                 // [T]
    int T, int H, int W, int C, int N,
    int across, int columns,              // blocks along the channels; tiles side by side
    int begin, int tiles,                 // of all tiles those from `begin` on, up to here, are for these clusters
    int cut, int before, int after,       // 0, or along what the picture is cut (see `spot_of`); who is there
    int* finished                         // counts the warps that are done with a tile at an edge that has a neighbour
) {
    extern __shared__ unsigned char memory[];
    const u32 base = aligned(memory);
    const u32 full_a = base + BAR_AT, empty_a = full_a + 16, full_b = empty_a + 16, empty_b = full_b + 8 * STAGES;
    const u32 met = empty_b + 8 * STAGES, ready_a = met + 64;
    const int group = threadIdx.x / 128, blocks = (C + 31) / 32, groups = T / PER;
    const int more = FOUR ? (C + 63) / 64 : 0;  // blocks of the second pass
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) bar_init(full_a + 8 * i, 1), bar_init(ready_a + 8 * i, 3), bar_init(empty_a + 8 * i, 8);
        for (int i = 0; i < STAGES; ++i) bar_init(full_b + 8 * i, 1), bar_init(empty_b + 8 * i, PAIR ? 16 : 8);
        for (int i = 0; i < 8; ++i) bar_init(met + 8 * i, 2);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    cluster_sync();
    asm volatile("griddepcontrol.launch_dependents;");  // from now on they may take what multiprocessors are free
    const int rank = blockIdx.x % 2;
    if (group == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 256) {
            int a = 0, b = 0;  // fetches so far
            for (int tile = begin + blockIdx.x / 2; tile < tiles; tile += gridDim.x / 2) {
                PLACE
                const int y0 = spot.y, x0 = spot.x;
                for (int block = 0; block < blocks + more; ++block, ++a) {
                    const u32 bar = full_a + 8 * (a & 1), to = base + A_AT + (a & 1) * A_BYTES;
                    const bool ends = block >= blocks;
                    const int depth = ends ? (block - blocks) * 64 : block * 32;
                    bar_wait(empty_a + 8 * (a & 1), (a >> 1 & 1) ^ 1);
                    bar_expect(bar, 4 * HALO * 64);
                    for (int j = 0; j < 4; ++j)
                        fetch(to + j * FRAME, &frames, bar, depth + (ends ? j / 2 * 32 : 0), x0, y0,
                              slots[FOUR ? t / PER * (PER + 2) + (ends ? 4 + j % 2 : j) : t + j]);
                    for (int tap = 0; tap < 9; ++tap, ++b) {
                        const u32 full = full_b + 8 * (b % STAGES), at = base + B_AT + b % STAGES * B_BYTES;
                        bar_wait(empty_b + 8 * (b % STAGES), (b / STAGES & 1) ^ 1);
                        bar_expect(full, B_BYTES);
                        for (int half = PAIR ? rank : 0; half < (PAIR ? rank + 1 : 2); ++half)
                            fetch_for<PAIR>(at + half * 2 * PART, &weights, full, depth + (ends ? half * 32 : 0), n0,
                                            ends ? 4 : half * 2, tap);
                    }
                    if (block + 1 == blocks || block + 1 == blocks + more)
                        for (int f = 0; f < 2; ++f, ++b) {
                            const u32 full = full_b + 8 * (b % STAGES), at = base + B_AT + b % STAGES * B_BYTES;
                            bar_wait(empty_b + 8 * (b % STAGES), (b / STAGES & 1) ^ 1);
                            if (RESIDUAL) {
                                bar_expect(full, B_BYTES);
                                for (int q = 0; q < BN / 16; ++q)
                                    fetch(at + q * 4096, &shortcut, full, n0 + q / 2 * 32, x0 + q % 2 * 8, y0,
                                          frame_of(t, f, ends));
                            } else {
                                bar_arrive(full);
                            }
                        }
                }
            }
        } else if (!FOUR && threadIdx.x >= 288) {  // three warps
            int a = 0;
            for (int tile = begin + blockIdx.x / 2; tile < tiles; tile += gridDim.x / 2)
                for (int block = 0; block < blocks; ++block, ++a) {
                    bar_wait(full_a + 8 * (a & 1), a >> 1 & 1);
                    const u32 pixels = base + A_AT + (a & 1) * A_BYTES;
                    for (int i = threadIdx.x - 288; i < HALO * 4; i += 96) transform(pixels + i * 16);
                    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                    __syncwarp();
                    if ((threadIdx.x & 31) == 0) bar_arrive(ready_a + 8 * (a & 1));
                }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        const int lane = threadIdx.x & 31;
        const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);  // its 2 x 8 pixels: a group has 8 x 8
        const int left_of = warp / 4 * 8, top = warp % 4 * 2;
        const u64 desc = (2ull << 62) | (32ull << 32) | (1ull << 16) | ((base + B_AT) >> 4);
        const u64 desc_a = (2ull << 62) | (u64(PITCH * 4) << 32) | (1ull << 16) | ((base + A_AT + left_of * 64) >> 4);
        u32 a = 0, stage = 0, phase = 0, round = 0, left = 0;  // left: first of two stages that results leave from
        bool leaving = false, awaited = false;  // results are; and somebody waits for them
        float acc[4][REGS];
        for (int tile = begin + blockIdx.x / 2; tile < tiles; tile += gridDim.x / 2, ++round) {
#pragma unroll
            for (int ends = 0; ends <= FOUR; ++ends) {
                u32 last = 0;  // the stage before this one
                for (int block = 0; block < (ends ? more : blocks); ++block, ++a) {
                    const u64 pixels = desc_a + (a & 1) * (A_BYTES >> 4);
                    bar_wait((FOUR ? full_a : ready_a) + 8 * (a & 1), a >> 1 & 1);
#pragma unroll
                    for (int tap = 0; tap < 9; ++tap) {
                        const bool begun = tap > 0 || block > 0;
                        bar_wait(full_b + 8 * stage, phase);
                        products(acc, pixels + (tap / 3 * PITCH + tap % 3) * 4, desc + stage * (B_BYTES >> 4), ends || begun,
                                 ends);
                        if (tap == 0 && leaving) {  // the last results have left
                            if (lane == 0) awaited ? tell(finished) : left_memory();
                            __syncwarp();
                            release(empty_b + 8 * left, lane);
                            release(empty_b + 8 * (left + 1 == STAGES ? 0 : left + 1), lane);
                            leaving = false;
                        }
                        all_but_last_done();
                        if (begun) release(empty_b + 8 * last, lane);
                        if (tap == 0 && block > 0 && lane == 0) bar_arrive(empty_a + 8 * (a & 1 ^ 1));
                        last = stage;
                        if (++stage == STAGES) stage = 0, phase ^= 1;
                    }
                }
                all_done();
                release(empty_b + 8 * last, lane);
                if (lane == 0) bar_arrive(empty_a + 8 * (a & 1 ^ 1));
                if (!ends) {
#pragma unroll
                    for (int i = 0; i < REGS; ++i) {
#if FOUR
                        const float x = acc[0][i] + acc[1][i], y = acc[0][i] - acc[1][i];
                        const float z = acc[2][i] + acc[3][i], w = acc[2][i] - acc[3][i];
                        acc[0][i] = x + z;
                        acc[1][i] = A * y + B * w;
                        acc[2][i] = A * A * x + B * B * z;
                        acc[3][i] = A * A * A * y + B * B * B * w;
#else
                        acc[0][i] += acc[1][i] + acc[2][i];
                        acc[3][i] = acc[1][i] - acc[2][i] - acc[3][i];
#endif
                    }
                }
                float (&first)[REGS] = acc[FOUR && !ends ? 1 : 0], (&second)[REGS] = acc[FOUR && !ends ? 2 : 3];
                // What follows: of each pixel, four neighbouring threads hold two channels of every eight.
                PLACE
                const int y = spot.y + top, x = spot.x + left_of;
                u32 results[2];  // where this thread's first pixel lies in the buffers of both frames
                left = stage;
#pragma unroll
                for (int f = 0; f < 2; ++f) {
                    results[f] = first_result(base, stage, warp, lane);
                    bar_wait(full_b + 8 * stage, phase);
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
                float scale[2][2] = {{0, 0}, {0, 0}};
                complete(first, second, scale, results, bias, n0, N, lane);
#if !PAIR
                add_peers(scale, base + SUM_AT + (round & 1) * (2 * 2 * 128 * 4), met + 8 * warp, round & 1, rank, warp, lane);
#endif
                activate(first, second, scale, results, gamma, n0, N, lane);
                if (lane == 0) {
#pragma unroll
                    for (int f = 0; f < 2; ++f)
                        send(&target, base, left + f >= STAGES ? 0 : left + f, warp, n0, x, y,
                             NORM ? out_slots[t + f] : frame_of(t, f, ends));
                    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
                }
                leaving = true;
                awaited = NORM && ((spot.first && before) || (spot.last && after));
            }
        }
        if (lane == 0) awaited ? tell(finished) : arrived();
    }
    // Nobody leaves while others may still write here.
    __syncwarp();
    cluster_sync();
    asm volatile("griddepcontrol.wait;" ::: "memory");  // whoever comes next relies on the launch before this one, too
}
