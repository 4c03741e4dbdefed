// How sums become results: from registers, through a stage of shared memory, to global memory.
//
// A warp holds the sums of 2 x 8 pixels, as the tensor cores leave them. In each group j of eight channels, four
// neighbouring threads hold two channels each of a pixel. A thread holds the same pixel of both rows, h = 0 and 1. It
// does so for two stages f: two frames, or two phases of an enlarged picture.

// Returns where in a stage this thread's pixel of row 0 lies.
DEV u32 first_result(u32 base, u32 stage, int warp, int lane) {
    return base + RING_AT + stage * STAGE_BYTES + (warp * 16 + (lane >> 2)) * 64 + (lane & 3) * 4;
}

// Returns the offset from there to the channels of group j in row h, swizzled as the copy engine swizzles.
DEV u32 result_offset(int j, int h, int lane) { return j / 4 * 8192 + h * 512 + (((j & 3) ^ (lane >> 3 & 3)) << 4); }

// Loads this thread's two channels of group j from 16-bit `numbers` [N]; zeros from channel N on.
DEV u32 load_two(const u16* numbers, int n0, int j, int N, int lane) {
    const int n = n0 + 8 * j + (lane & 3) * 2;
    return n < N ? __ldg((const u32*)(numbers + n)) : 0;
}

// Starts storing this warp's results of a stage to column x and row y of a frame. One thread calls this.
DEV void store_results(const Map* target, u32 base, u32 stage, int warp, int n0, int x, int y, int frame) {
    const u32 from = base + RING_AT + stage * STAGE_BYTES + warp * 1024;
#pragma unroll
    for (int q = 0; q < BN / 32; ++q) store(target, from + q * 8192, n0 + 32 * q, x, y, frame);
}

// Wait until the results that this thread stores have been read from shared memory; until they are written; until they
// are written, and count that in `finished`, for the exchange that waits for the edges.
DEV void wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
DEV void wait_written() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
DEV void count_part(int* finished) {
    wait_written();
    asm volatile("fence.proxy.async.global;\nred.release.gpu.global.add.u32 [%0], 1;" ::"l"(finished) : "memory");
}

// Adds bias and residual, which lies where the results go. With NORM sums the squares of this block's channels of each
// pixel into `scale` [f][h].
DEV void add_bias(float (&first)[REGS], float (&second)[REGS], float (&scale)[2][2], const u32 (&results)[2],
                  const u16* bias, int n0, int N, int lane) {
#pragma unroll
    for (int j = 0; j < GROUPS; ++j) {
        const u32 b = load_two(bias, n0, j, N, lane);
#pragma unroll
        for (int f = 0; f < 2; ++f)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float (&sum)[REGS] = f ? second : first;
                float &p = sum[4 * j + 2 * h], &q = sum[4 * j + 2 * h + 1];
                p += to_float(b & 0xffff), q += to_float(b >> 16);
#if RESIDUAL
                const u32 r = load_word(results[f] + result_offset(j, h, lane));
                p += to_float(r & 0xffff), q += to_float(r >> 16);
#endif
#if NORM
                scale[f][h] += p * p + q * q;
#endif
            }
    }
#if NORM
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float& sum = scale[i >> 1][i & 1];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
    }
#endif
}

// Where a region lies in the picture: its first column x and row y, and whether it is at the first or last edge.
//
// Indices go along the rows of regions. With `cut` (1: along the picture's rows, 2: along its columns) they go along
// the cut: first the line of regions at the first edge, then that at the last edge, then those between. Indices
// behind the last region lie outside the picture.
struct Position { int x, y; bool first, last; };
DEV Position position_of(int index, int columns, int rows, int cut) {
    if (!cut) return {index % columns * REGION_COLUMNS, index / columns * REGION_ROWS, false, false};
    const int length = cut == 1 ? rows : columns, line = index / (cut == 1 ? columns : rows);
    const int at = line == 0 || line >= length ? line : line == 1 ? length - 1 : line - 1;
    const int along = index % (cut == 1 ? columns : rows);
    const bool first = at == 0, last = at == length - 1;
    return cut == 1 ? Position{along * REGION_COLUMNS, at * REGION_ROWS, first, last}
                    : Position{at * REGION_COLUMNS, along * REGION_ROWS, first, last};
}

// Adds the other block's sums of squares to `scale`. Each warp writes its own to both blocks and waits for the sums of
// the same warp of the other block. `sums` is float [2 blocks][2 frames][128 pixels].
DEV void add_peer_squares(float (&scale)[2][2], u32 sums, u32 bar, u32 parity, int rank, int warp, int lane) {
    const int mine = warp * 16 + (lane >> 2);
    if ((lane & 3) == 0) {
        const u32 to = sums + (rank * 256 + mine) * 4;
#pragma unroll
        for (int peer = 0; peer < 2; ++peer)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                asm volatile("{\n.reg .u32 p;\nmapa.shared::cluster.u32 p, %0, %1;\n"
                             "st.shared::cluster.f32 [p], %2;\n}"
                             ::"r"(to + (i >> 1) * 512 + (i & 1) * 32), "r"(peer), "f"(scale[i >> 1][i & 1])
                             : "memory");
    }
    __syncwarp();
    if (lane < 2) {
        asm volatile("fence.acq_rel.cluster;" ::: "memory");
        bar_arrive_at(bar, lane);
    }
    bar_wait_cluster(bar, parity);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float total = 0;
#pragma unroll
        for (int peer = 0; peer < 2; ++peer) {
            float part;
            asm volatile("ld.shared.f32 %0, [%1];" : "=f"(part)
                : "r"(sums + (peer * 256 + (i >> 1) * 128 + (i & 1) * 8 + mine) * 4) : "memory");
            total += part;
        }
        scale[i >> 1][i & 1] = total;
    }
}

// Writes the results, or with NORM silu(norm(results)) in fp16, into their stages, where the copy engine sees them.
DEV void activate(const float (&first)[REGS], const float (&second)[REGS], float (&scale)[2][2],
                  const u32 (&results)[2], const u16* gamma, int n0, int N, int lane) {
#if NORM
#pragma unroll
    for (int i = 0; i < 4; ++i) scale[i >> 1][i & 1] = rsqrtf(scale[i >> 1][i & 1] / N + 1e-24f);
#endif
#pragma unroll
    for (int j = 0; j < GROUPS; ++j) {
#if NORM
        const u32 b = load_two(gamma, n0, j, N, lane);
#endif
#pragma unroll
        for (int f = 0; f < 2; ++f)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const float p = (f ? second : first)[4 * j + 2 * h], q = (f ? second : first)[4 * j + 2 * h + 1];
#if NORM
                const float s = scale[f][h];
                const u32 both = half2(silu(p * s * to_float(b & 0xffff)), silu(q * s * to_float(b >> 16)));
#else
                const u32 both = pack(p, q);
#endif
                store_word(results[f] + result_offset(j, h, lane), both);
            }
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncwarp();
}
