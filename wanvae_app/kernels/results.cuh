// How sums become results: from a thread's registers, of the pixels of two frames, through a stage of shared memory, to
// where they belong. Each warp has 2 x 8 pixels, whose two channels of every eight (c, of group j) four neighbouring
// threads hold; a thread has pixel g of both rows h.

// Where a thread's first pixel lies in a stage.
DEV u32 first_result(u32 base, u32 stage, int warp, int lane) {
    return base + B_AT + stage * B_BYTES + (warp * 16 + (lane >> 2)) * 64 + (lane & 3) * 4;
}

// From there to channels j of row h: swizzled as the copy engine does.
DEV u32 further(int j, int h, int lane) { return j / 4 * 8192 + h * 512 + (((j & 3) ^ (lane >> 3 & 3)) << 4); }

// Two channels of 16 bits for this thread, of group j; 0 beyond the last.
DEV u32 two_of(const u16* numbers, int n0, int j, int N, int lane) {
    const int n = n0 + 8 * j + (lane & 3) * 2;
    return n < N ? __ldg((const u32*)(numbers + n)) : 0;
}

// One thread sends a warp's results on their way.
DEV void send(const Map* target, u32 base, u32 stage, int warp, int n0, int x, int y, int frame) {
    const u32 from = base + B_AT + stage * B_BYTES + warp * 1024;
#pragma unroll
    for (int q = 0; q < BN / 32; ++q) store(target, from + q * 8192, n0 + 32 * q, x, y, frame);
}

// The results that this thread sent have left shared memory; they have arrived; they have, and this is told.
DEV void left_memory() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
DEV void arrived() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
DEV void tell(int* finished) {
    arrived();
    asm volatile("fence.proxy.async.global;\nred.release.gpu.global.add.u32 [%0], 1;" ::"l"(finished) : "memory");
}

// Bias and residual added; and for a norm the squares of a pixel's channels, of this block, added up.
DEV void complete(float (&first)[REGS], float (&second)[REGS], float (&scale)[2][2], const u32 (&results)[2],
                  const u16* bias, int n0, int N, int lane) {
#pragma unroll
    for (int j = 0; j < G; ++j) {
        const u32 b = two_of(bias, n0, j, N, lane);
#pragma unroll
        for (int f = 0; f < 2; ++f)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float (&sum)[REGS] = f ? second : first;
                float &p = sum[4 * j + 2 * h], &q = sum[4 * j + 2 * h + 1];
                p += wide(b & 0xffff), q += wide(b >> 16);
#if RESIDUAL
                const u32 r = load_word(results[f] + further(j, h, lane));
                p += wide(r & 0xffff), q += wide(r >> 16);
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

// Where the tile at a place begins. Places go along the rows of tiles; with a `cut` (1: along the picture's rows, 2: along
// its columns) along the cut, its two edges first. What lies beyond the last place is nowhere.
struct Spot { int x, y; bool first, last; };  // whether it is at the first edge, and at the last
DEV Spot spot_of(int place, int columns, int rows, int cut) {
    if (!cut) return {place % columns * TW, place / columns * TH, false, false};
    const int length = cut == 1 ? rows : columns, line = place / (cut == 1 ? columns : rows);
    const int at = line == 0 || line >= length ? line : line == 1 ? length - 1 : line - 1;
    const int along = place % (cut == 1 ? columns : rows);
    const bool first = at == 0, last = at == length - 1;
    return cut == 1 ? Spot{along * TW, at * TH, first, last} : Spot{at * TW, along * TH, first, last};
}

// The other block's squares as well: each warp hands its own to the same warp of both blocks, and waits for theirs.
// `sums` is float [2 blocks][2 frames][128 pixels].
DEV void add_peers(float (&scale)[2][2], u32 sums, u32 met, u32 parity, int rank, int warp, int lane) {
    const int mine = warp * 16 + (lane >> 2);
    if ((lane & 3) == 0) {
        const u32 to = sums + (rank * 256 + mine) * 4;
#pragma unroll
        for (int peer = 0; peer < 2; ++peer)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                asm volatile("{\n.reg .u32 p;\nmapa.shared::cluster.u32 p, %0, %1;\nst.shared::cluster.f32 [p], %2;\n}"
                             ::"r"(to + (i >> 1) * 512 + (i & 1) * 32), "r"(peer), "f"(scale[i >> 1][i & 1]) : "memory");
    }
    __syncwarp();
    if (lane < 2) {
        asm volatile("fence.acq_rel.cluster;" ::: "memory");
        bar_arrive_at(met, lane);
    }
    bar_wait_cluster(met, parity);
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

// The results, with NORM silu(norm(results)) in fp16, into their stages, where the copy engine sees them.
DEV void activate(const float (&first)[REGS], const float (&second)[REGS], float (&scale)[2][2], const u32 (&results)[2],
                  const u16* gamma, int n0, int N, int lane) {
#if NORM
#pragma unroll
    for (int i = 0; i < 4; ++i) scale[i >> 1][i & 1] = rsqrtf(scale[i >> 1][i & 1] / N + 1e-24f);
#endif
#pragma unroll
    for (int j = 0; j < G; ++j) {
#if NORM
        const u32 b = two_of(gamma, n0, j, N, lane);
#endif
#pragma unroll
        for (int f = 0; f < 2; ++f)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const float p = (f ? second : first)[4 * j + 2 * h], q = (f ? second : first)[4 * j + 2 * h + 1];
#if NORM
                const float s = scale[f][h];
                const u32 both = half2(silu(p * s * wide(b & 0xffff)), silu(q * s * wide(b >> 16)));
#else
                const u32 both = pack(p, q);
#endif
                store_word(results[f] + further(j, h, lane), both);
            }
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncwarp();
}

