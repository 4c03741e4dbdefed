// Causal 3x3x3 convolutions of padded frames by Winograd's F(2, 3) along time. `winograd.py` starts this.
//
// For two frames out, y0 and y1, and the four that they see, d0 to d3, with the time taps g0, g1, g2:
//   m0 = (d0 - d2) * g0                  y0 = m0 + m1 + m2
//   m1 = (d1 + d2) * (g0 + g1 + g2) / 2  y1 = m1 - m2 - m3
//   m2 = (d2 - d1) * (g0 - g1 + g2) / 2
//   m3 = (d1 - d3) * g2
// A product m is a 3x3 convolution of a picture: four in place of six.
//
// A block computes 8 x 16 pixels of both frames for BN channels.
// - One thread keeps the copy engine busy. For each 32 channels it fetches 10 x 18 pixels of four frames; then, for
//   each of nine taps, the weights of the four products.
// - Three warps transform these pixels where they lie: d0 becomes d0 - d2, and so on.
// - Two groups of four warps multiply, 8 x 8 pixels each. The tensor cores read what a tap sees from shared memory: a
//   matrix descriptor takes eight rows of eight pixels at any offset, because the swizzle goes by the address.
// So the neighbourhood of a pixel crosses the L2 cache once, not nine times, and is transformed once.
//
// What limits the chip is power, so blocks share weights where they can. With PAIR a cluster takes the same channels
// of two regions: each block fetches half of a step's weights, and the copy engine writes that half into both.
// Without PAIR the blocks of a cluster hold all channels of a region, over which a norm is taken, and each fetches
// its own weights.
//
// Results leave through the ring that weights come in. The residual is fetched into a stage before it is due; the sum
// takes its place there, and the copy engine stores it while the next tile is computed.
//
// With FOUR it is F(4, 3): four frames out and the six, d0 to d5, that they see, by polynomials in the points 0, +-A,
// +-B and infinity. Six products in place of twelve:
//   m0, m1 = (d4 - B^2 d2 +- A (d3 - B^2 d1)) * g(+-A)    g(p) = (g0 + p g1 + p^2 g2) / (2 A^2 (A^2 - B^2)), and for
//   m2, m3 = (d4 - A^2 d2 +- B (d3 - A^2 d1)) * g(+-B)    B with A and B exchanged
//   m4 = (d4 - (A^2 + B^2) d2 + (A B)^2 d0) * g0 / (A B)^2
//   m5 = (d5 - (A^2 + B^2) d3 + (A B)^2 d1) * g2
//   y0 = m0 + m1 + m2 + m3 + m4                           y1 = A (m0 - m1) + B (m2 - m3)
//   y2 = A^2 (m0 + m1) + B^2 (m2 + m3)                    y3 = A^3 (m0 - m1) + B^3 (m2 - m3) + m5
// There are registers for four sums. A first pass over the channels makes m0 to m3. They become y0 to y3, without m4
// and m5, in the same registers; y1 and y2 leave. A second pass adds m4 and m5 to y0 and y3, 64 channels a step: like
// the first, it takes four inputs a step, and for each tap four matrices of weights.
//
// Six frames do not fit a step, so `transform.py` transforms frames when it writes them: the frames that this kernel
// reads are what the products multiply.
//
// With NORM, where the picture is cut, edges come first, and each warp counts the parts of them that it has stored.
// The exchange, launched as this kernel's dependent, waits for all parts and sends them while the last tiles are
// computed.
//
// All clusters compute equally many tiles. The tiles of an incomplete last round may go to a dependent launch of
// narrower blocks (see `rounds.py`), which takes multiprocessors as they become free and ends when both are done.
//
// Macros, besides those of `hopper.cuh`: FOUR; RESIDUAL, whether one is added; NORM, whether silu(norm(result)) in
// fp16 is stored.

constexpr int SUM_AT = RING_AT + STAGES * STAGE_BYTES;  // without PAIR: float [2 tiles][2 blocks][2 frames][128 pixels]
constexpr int BAR_AT = SUM_AT + (PAIR ? 0 : 2 * 2 * 2 * 128 * 4);
constexpr int FRAMES_PER_TILE = FOUR ? 4 : 2;
constexpr float A = 11.f / 16, B = 23.f / 16;  // `winograd.POINTS`

// Starts the four products of one tap and 32 channels; in the second pass, two products of 64 channels.
DEV void products(float (&acc)[4][REGS], u64 pixels, u64 weights, int add_to, bool second_pass) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < 2; ++k)
#pragma unroll
        for (int j = 0; j < 4; ++j)
            multiply(acc[second_pass ? (j & 1) * 3 : j], pixels + j * (INPUT_BYTES >> 4) + 2 * k,
                     weights + j * (MATRIX_BYTES >> 4) + 2 * k, k > 0 || (second_pass && j > 1) || add_to);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Transforms eight channels of a pixel: at the same offset in four inputs, d0 to d3 become what four products multiply.
DEV void transform(u32 at) {
    u32 d[4][4];
#pragma unroll
    for (int j = 0; j < 4; ++j) load_four_words(d[j], at + j * INPUT_BYTES);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const u32 one = d[1][i], two = d[2][i];
        d[0][i] = sub(d[0][i], two);
        d[3][i] = sub(one, d[3][i]);
        d[1][i] = add(one, two);
        d[2][i] = sub(two, one);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) store_four_words(at + j * INPUT_BYTES, d[j]);
}

// Returns which frame leaves as result f = 0 or 1 of a tile from frame t on.
DEV int frame_of(int t, int f, bool second_pass) { return t + (!FOUR ? f : second_pass ? 3 * f : 1 + f); }

// Returns the region that block `rank` of a cluster computes.
DEV int region_of(int tile, int rank, int channel_blocks) { return PAIR ? tile / channel_blocks * 2 + rank : tile; }

// Sets a tile's first channel n0, first frame t, and position in the picture. Neighbouring tiles share what they read.
#define LOCATE \
    const int region = region_of(tile, rank, channel_blocks), n0 = (PAIR ? tile % channel_blocks : rank) * BN; \
    const int t = region % frame_groups * FRAMES_PER_TILE; \
    const Position position = \
        position_of(region / frame_groups, regions_across, (H + REGION_ROWS - 1) / REGION_ROWS, NORM ? cut : 0);

extern "C" __global__ void __launch_bounds__(384, 1)
__cluster_dims__(2, 1, 1)
winograd_kernel(
    const __grid_constant__ Map frames,      // padded frames fp16 [slots, H + 2, W + 2, C], box [1, 10, 18, 32]
    const __grid_constant__ Map weights,     // fp16 [9 taps, 4 or 6 products, N, C], box [1, 2, BN, 32]
    const __grid_constant__ Map residual,    // [T, H, W, N], box [1, 8, 8, 32]
    const __grid_constant__ Map target,      // [T, H, W, N]; with NORM the insides of padded frames; box [1, 2, 8, 32]
    const int* slots,                        // [T + 2]: of past and present frames; FOUR: [T / 4, 6] transformed ones
    const u16* bias,                         // [N]
    const u16* gamma,                        // [N]
    const int* out_slots,                    // [T], with NORM
    int T, int H, int W, int C, int N,
    int channel_blocks, int regions_across,  // blocks that hold all channels; regions side by side
    int begin, int end,                      // the tiles of this launch
    int cut, int before, int after,          // see `position_of`; whether there is a rank before, and one behind
    int* finished                            // with NORM and cut: counts parts of the edges, one for a warp and a tile
) {
    extern __shared__ unsigned char memory[];
    const u32 base = aligned(memory);
    // Barriers: two for the buffers of inputs, STAGES for the ring. Readers wait for `full`, the writer for `empty`.
    const u32 full_inputs = base + BAR_AT, empty_inputs = full_inputs + 16;
    const u32 full_stages = empty_inputs + 16, empty_stages = full_stages + 8 * STAGES;
    // Without PAIR eight for sums of squares, one for each warp; without FOUR two for transformed inputs.
    const u32 sums_bar = empty_stages + 8 * STAGES, transformed = sums_bar + 64;
    const int group = threadIdx.x / 128, steps = (C + 31) / 32, frame_groups = T / FRAMES_PER_TILE;
    const int steps2 = FOUR ? (C + 63) / 64 : 0;  // of the second pass; `steps` are those of the first
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i)
            bar_init(full_inputs + 8 * i, 1), bar_init(transformed + 8 * i, 3), bar_init(empty_inputs + 8 * i, 8);
        for (int i = 0; i < STAGES; ++i)
            bar_init(full_stages + 8 * i, 1), bar_init(empty_stages + 8 * i, PAIR ? 16 : 8);
        for (int i = 0; i < 8; ++i) bar_init(sums_bar + 8 * i, 2);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    cluster_sync();
    asm volatile("griddepcontrol.launch_dependents;");  // these may take multiprocessors that become free
    const int rank = blockIdx.x % 2;
    if (group == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 256) {
            int inputs = 0, filled = 0;  // buffers of inputs and stages that were filled so far
            for (int tile = begin + blockIdx.x / 2; tile < end; tile += gridDim.x / 2) {
                LOCATE
                const int y0 = position.y, x0 = position.x;
                for (int step = 0; step < steps + steps2; ++step, ++inputs) {
                    const u32 bar = full_inputs + 8 * (inputs & 1);
                    const u32 to = base + INPUTS_AT + (inputs & 1) * INPUTS_BYTES;
                    const bool second_pass = step >= steps;
                    const int depth = second_pass ? (step - steps) * 64 : step * 32;
                    bar_wait(empty_inputs + 8 * (inputs & 1), (inputs >> 1 & 1) ^ 1);
                    bar_expect(bar, 4 * INPUT_PIXELS * 64);
                    for (int j = 0; j < 4; ++j) {
                        const int product = second_pass ? 4 + j % 2 : j;  // with FOUR, of six
                        const int slot = FOUR ? t / FRAMES_PER_TILE * (FRAMES_PER_TILE + 2) + product : t + j;
                        fetch(to + j * INPUT_BYTES, &frames, bar, depth + (second_pass ? j / 2 * 32 : 0), x0, y0,
                              slots[slot]);
                    }
                    for (int tap = 0; tap < 9; ++tap, ++filled) {
                        const u32 full = full_stages + 8 * (filled % STAGES);
                        const u32 at = base + RING_AT + filled % STAGES * STAGE_BYTES;
                        bar_wait(empty_stages + 8 * (filled % STAGES), (filled / STAGES & 1) ^ 1);
                        bar_expect(full, STAGE_BYTES);
                        for (int half = PAIR ? rank : 0; half < (PAIR ? rank + 1 : 2); ++half)
                            fetch_to<PAIR>(at + half * 2 * MATRIX_BYTES, &weights, full,
                                           depth + (second_pass ? half * 32 : 0), n0, second_pass ? 4 : half * 2, tap);
                    }
                    if (step + 1 == steps || step + 1 == steps + steps2)
                        for (int f = 0; f < 2; ++f, ++filled) {
                            const u32 full = full_stages + 8 * (filled % STAGES);
                            const u32 at = base + RING_AT + filled % STAGES * STAGE_BYTES;
                            bar_wait(empty_stages + 8 * (filled % STAGES), (filled / STAGES & 1) ^ 1);
                            if (RESIDUAL) {
                                bar_expect(full, STAGE_BYTES);
                                for (int q = 0; q < BN / 16; ++q)
                                    fetch(at + q * 4096, &residual, full, n0 + q / 2 * 32, x0 + q % 2 * 8, y0,
                                          frame_of(t, f, second_pass));
                            } else {
                                bar_arrive(full);
                            }
                        }
                }
            }
        } else if (!FOUR && threadIdx.x >= 288) {  // three warps transform
            int inputs = 0;
            for (int tile = begin + blockIdx.x / 2; tile < end; tile += gridDim.x / 2)
                for (int step = 0; step < steps; ++step, ++inputs) {
                    bar_wait(full_inputs + 8 * (inputs & 1), inputs >> 1 & 1);
                    const u32 pixels = base + INPUTS_AT + (inputs & 1) * INPUTS_BYTES;
                    for (int i = threadIdx.x - 288; i < INPUT_PIXELS * 4; i += 96) transform(pixels + i * 16);
                    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                    __syncwarp();
                    if ((threadIdx.x & 31) == 0) bar_arrive(transformed + 8 * (inputs & 1));
                }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        const int lane = threadIdx.x & 31;
        const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);  // computes 2 x 8 of its group's 8 x 8 pixels
        const int warp_x = warp / 4 * 8, warp_y = warp % 4 * 2;
        const u64 weights_desc = (2ull << 62) | (32ull << 32) | (1ull << 16) | ((base + RING_AT) >> 4);
        const u64 inputs_desc =
            (2ull << 62) | (u64(PITCH * 4) << 32) | (1ull << 16) | ((base + INPUTS_AT + warp_x * 64) >> 4);
        u32 inputs = 0, stage = 0, parity = 0, round = 0;
        u32 first_leaving = 0;  // the first of two stages that results leave from
        bool leaving = false, is_edge = false;  // whether results are in these stages; whether they are an edge
        float acc[4][REGS];
        for (int tile = begin + blockIdx.x / 2; tile < end; tile += gridDim.x / 2, ++round) {
#pragma unroll
            for (int second_pass = 0; second_pass <= FOUR; ++second_pass) {
                u32 previous = 0;  // the stage ahead of `stage`
                for (int step = 0; step < (second_pass ? steps2 : steps); ++step, ++inputs) {
                    const u64 pixels = inputs_desc + (inputs & 1) * (INPUTS_BYTES >> 4);
                    bar_wait((FOUR ? full_inputs : transformed) + 8 * (inputs & 1), inputs >> 1 & 1);
#pragma unroll
                    for (int tap = 0; tap < 9; ++tap) {
                        const bool accumulate = tap > 0 || step > 0;
                        bar_wait(full_stages + 8 * stage, parity);
                        products(acc, pixels + (tap / 3 * PITCH + tap % 3) * 4,
                                 weights_desc + stage * (STAGE_BYTES >> 4), second_pass || accumulate, second_pass);
                        if (tap == 0 && leaving) {  // results of the tile ahead of this one
                            if (lane == 0) is_edge ? count_part(finished) : wait_read();
                            __syncwarp();
                            release(empty_stages + 8 * first_leaving, lane);
                            release(empty_stages + 8 * (first_leaving + 1 == STAGES ? 0 : first_leaving + 1), lane);
                            leaving = false;
                        }
                        wait_all_but_last();
                        if (accumulate) release(empty_stages + 8 * previous, lane);
                        if (tap == 0 && step > 0 && lane == 0) bar_arrive(empty_inputs + 8 * (inputs & 1 ^ 1));
                        previous = stage;
                        if (++stage == STAGES) stage = 0, parity ^= 1;
                    }
                }
                wait_all();
                release(empty_stages + 8 * previous, lane);
                if (lane == 0) bar_arrive(empty_inputs + 8 * (inputs & 1 ^ 1));
                if (!second_pass) {
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
                float (&first)[REGS] = acc[FOUR && !second_pass ? 1 : 0];
                float (&second)[REGS] = acc[FOUR && !second_pass ? 2 : 3];
                // From here on see `results.cuh`.
                LOCATE
                const int y = position.y + warp_y, x = position.x + warp_x;
                u32 results[2];  // where this thread's pixel of row 0 lies in both frames' stages
                first_leaving = stage;
#pragma unroll
                for (int f = 0; f < 2; ++f) {
                    results[f] = first_result(base, stage, warp, lane);
                    bar_wait(full_stages + 8 * stage, parity);
                    if (++stage == STAGES) stage = 0, parity ^= 1;
                }
                float scale[2][2] = {{0, 0}, {0, 0}};
                add_bias(first, second, scale, results, bias, n0, N, lane);
#if !PAIR
                const u32 sums = base + SUM_AT + (round & 1) * (2 * 2 * 128 * 4);
                add_peer_squares(scale, sums, sums_bar + 8 * warp, round & 1, rank, warp, lane);
#endif
                activate(first, second, scale, results, gamma, n0, N, lane);
                if (lane == 0) {
#pragma unroll
                    for (int f = 0; f < 2; ++f)
                        store_results(&target, base, first_leaving + f >= STAGES ? 0 : first_leaving + f, warp,
                                      n0, x, y, NORM ? out_slots[t + f] : frame_of(t, f, second_pass));
                    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
                }
                leaving = true;
                is_edge = NORM && ((position.first && before) || (position.last && after));
            }
        }
        if (lane == 0) is_edge ? count_part(finished) : wait_written();
    }
    // No block ends while the other may still write to its shared memory or barriers.
    __syncwarp();
    cluster_sync();
    asm volatile("griddepcontrol.wait;" ::: "memory");  // launches behind this one rely on the one ahead of it, too
}
