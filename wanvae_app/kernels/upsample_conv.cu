// A picture enlarged to twice its height and width by repetition, and convolved 3x3, without being enlarged:
// `upsample_conv.py` compiles and starts this.
//
// Of three neighbours in the large picture two are the same pixel of the small one, so each of its four phases is a 2x2
// convolution of the small one (see `prepared.folded`). A block computes the four phases of 8 x 16 pixels for BN
// channels. One thread keeps the copy engine busy: it fetches 10 x 18 pixels for four times 32 channels, then for each of
// 32 channels and each of four taps the phases' weights. Two groups of four warps each take 8 x 8 pixels, which the tensor
// cores read from shared memory at an offset of their phase and tap. As in `winograd.cu`, two blocks of a cluster take two
// places and share the weights, results leave through the ring that weights come in, and a last launch takes what is left.
//
// Set by the host: BN (channels of a block, a multiple of 32), CHANNELS and TIME (see `launchers.Shortcut`: CHANNELS of the
// shortcut for one of the result's, 1 or 2, or 0 for no shortcut), HALF, PAIR (1), STAGES, multiply(), REGS.

constexpr int BAR_AT = B_AT + STAGES * B_BYTES;

extern "C" __global__ void __launch_bounds__(384, 1)
__cluster_dims__(2, 1, 1)
upsample_conv_kernel(
    const __grid_constant__ Map frames,       // padded frames [slots, H + 2, W + 2, C], box [1, 10, 18, 32]
    const __grid_constant__ Map weights,      // [4 taps, 4 phases, N, C], box [1, 2, BN, 32]
    const __grid_constant__ Map target00,     // of each phase [T, H, W, N], box [1, 2, 8, 32]
    const __grid_constant__ Map target01, const __grid_constant__ Map target10, const __grid_constant__ Map target11,
    const int* slots,                         // [T]: where the frames lie
    const u16* bias,                          // [N]
    const u16* shortcut,                      // [T', H, W, CHANNELS N]
    int T, int H, int W, int C, int N,
    int start,                                // which of the TIME T' frames that the shortcut becomes is the first
    int across, int columns,                  // blocks along the channels; tiles side by side
    int begin, int tiles                      // of all tiles those from `begin` on, up to here, are for these clusters
) {
    extern __shared__ unsigned char memory[];
    const u32 base = aligned(memory);
    const u32 full_a = base + BAR_AT, empty_a = full_a + 16, full_b = empty_a + 16, empty_b = full_b + 8 * STAGES;
    const int group = threadIdx.x / 128, blocks = (C + 31) / 32, rank = blockIdx.x % 2;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) bar_init(full_a + 8 * i, 1), bar_init(empty_a + 8 * i, 8);
        for (int i = 0; i < STAGES; ++i) bar_init(full_b + 8 * i, 1), bar_init(empty_b + 8 * i, 16);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    cluster_sync();
    asm volatile("griddepcontrol.launch_dependents;");  // for what is left: see `winograd.cu`
// Which channels, frame and pixels a tile is: neighbours share what they read.
#define PLACE \
    const int n0 = tile % across * BN, where = tile / across * 2 + rank, t = where % T, place = where / T;
    if (group == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 256) {
            int a = 0, b = 0;  // fetches so far
            for (int tile = begin + blockIdx.x / 2; tile < tiles; tile += gridDim.x / 2) {
                PLACE
                const int y0 = place / columns * TH, x0 = place % columns * TW;
                for (int block = 0; block < blocks; ++block) {
                    if (block % 4 == 0) {
                        const u32 bar = full_a + 8 * (a & 1), to = base + A_AT + (a & 1) * A_BYTES;
                        const int count = blocks - block < 4 ? blocks - block : 4;
                        bar_wait(empty_a + 8 * (a & 1), (a >> 1 & 1) ^ 1);
                        bar_expect(bar, count * HALO * 64);
                        for (int j = 0; j < count; ++j)
                            fetch(to + j * FRAME, &frames, bar, (block + j) * 32, x0, y0, slots[t]);
                        ++a;
                    }
                    for (int tap = 0; tap < 4; ++tap, ++b) {
                        const u32 full = full_b + 8 * (b % STAGES), at = base + B_AT + b % STAGES * B_BYTES;
                        bar_wait(empty_b + 8 * (b % STAGES), (b / STAGES & 1) ^ 1);
                        bar_expect(full, B_BYTES);
                        fetch_for<true>(at + rank * 2 * PART, &weights, full, block * 32, n0, rank * 2, tap);
                    }
                }
                for (int phase = 0; phase < 4; ++phase, ++b) {  // stages for results
                    bar_wait(empty_b + 8 * (b % STAGES), (b / STAGES & 1) ^ 1);
                    bar_arrive(full_b + 8 * (b % STAGES));
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        const int lane = threadIdx.x & 31;
        const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);  // its 2 x 8 pixels: a group has 8 x 8
        const int left_of = warp / 4 * 8, top = warp % 4 * 2, g = lane >> 2, c = (lane & 3) * 2;
        const u64 desc = (2ull << 62) | (32ull << 32) | (1ull << 16) | ((base + B_AT) >> 4);
        const u64 desc_a = (2ull << 62) | (u64(PITCH * 4) << 32) | (1ull << 16) | ((base + A_AT + left_of * 64) >> 4);
        u32 a = 0, stage = 0, phase = 0, left = 0;  // left: first of four stages that results leave from
        bool leaving = false;
        float acc[4][REGS];
        for (int tile = begin + blockIdx.x / 2; tile < tiles; tile += gridDim.x / 2) {
            u32 last = 0;  // the stage before this one
            for (int block = 0; block < blocks; ++block) {
                if (block % 4 == 0) bar_wait(full_a + 8 * (a & 1), a >> 1 & 1);
                const u64 pixels = desc_a + (a & 1) * (A_BYTES >> 4) + block % 4 * (FRAME >> 4);
#pragma unroll
                for (int tap = 0; tap < 4; ++tap) {
                    const u64 w = desc + stage * (B_BYTES >> 4);
                    const bool begun = tap > 0 || block > 0;
                    bar_wait(full_b + 8 * stage, phase);
                    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                    for (int k = 0; k < 2; ++k)
#pragma unroll
                        for (int j = 0; j < 4; ++j)
                            multiply(acc[j], pixels + ((tap / 2 + j / 2) * PITCH + tap % 2 + j % 2) * 4 + 2 * k,
                                     w + j * (PART >> 4) + 2 * k, k > 0 || begun);
                    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                    if (tap == 0 && leaving) {  // the last results have left
                        if (lane == 0) left_memory();
                        __syncwarp();
                        for (int i = 0; i < 4; ++i) release(empty_b + 8 * ((left + i) % STAGES), lane);
                        leaving = false;
                    }
                    all_but_last_done();
                    if (begun) release(empty_b + 8 * last, lane);
                    if (tap == 0 && block % 4 == 0 && block > 0 && lane == 0) bar_arrive(empty_a + 8 * (a & 1 ^ 1));
                    last = stage;
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
                if (block % 4 == 3 || block + 1 == blocks) ++a;
            }
            all_done();
            release(empty_b + 8 * last, lane);
            if (lane == 0) bar_arrive(empty_a + 8 * (a & 1 ^ 1));
            PLACE
            const int y = place / columns * TH + top, x = place % columns * TW + left_of;
            left = stage;
#pragma unroll
            for (int dy = 0; dy < 2; ++dy) {
                u32 results[2];  // where this thread's first pixel lies in the buffers of both phases
#pragma unroll
                for (int dx = 0; dx < 2; ++dx) {
                    results[dx] = first_result(base, stage, warp, lane);
                    bar_wait(full_b + 8 * stage, phase);
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
#pragma unroll
                for (int j = 0; j < G; ++j) {
                    const int n = n0 + 8 * j + c;
                    const u32 b = two_of(bias, n0, j, N, lane);
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        u32 one = 0, two = 0;  // the shortcut's channels for these two of the result's
                        if (CHANNELS && n < N && y + h < H && x + g < W) {
                            const long long at = (((start + t) / TIME * (long long)H + y + h) * W + x + g) * N + n;
                            if (CHANNELS == 1) {
                                one = __ldg((const u32*)(shortcut + at));
                            } else {
                                one = __ldg((const u32*)(shortcut + 2 * at));
                                two = __ldg((const u32*)(shortcut + 2 * at) + 1);
                            }
                        }
#pragma unroll
                        for (int dx = 0; dx < 2; ++dx) {
                            float p = acc[2 * dy + dx][4 * j + 2 * h], q = acc[2 * dy + dx][4 * j + 2 * h + 1];
                            p += wide(b & 0xffff), q += wide(b >> 16);
                            if (CHANNELS == 1) p += wide(one & 0xffff), q += wide(one >> 16);
                            if (CHANNELS == 2) {  // every copy has its own of them
                                const int mine = (((start + t) % TIME * 2 + dy) * 2 + dx) * 2 / (4 * TIME) * 16;
                                p += wide(one >> mine & 0xffff), q += wide(two >> mine & 0xffff);
                            }
                            store_word(results[dx] + further(j, h, lane), pack(p, q));
                        }
                    }
                }
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                __syncwarp();
                if (lane == 0) {
#pragma unroll
                    for (int dx = 0; dx < 2; ++dx)
                        send(dy ? dx ? &target11 : &target10 : dx ? &target01 : &target00, base,
                             (left + 2 * dy + dx) % STAGES, warp, n0, x, y, t);
                    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
                }
            }
            leaving = true;
        }
        if (lane == 0) arrived();
    }
    // Nobody leaves while others may still write here.
    __syncwarp();
    cluster_sync();
    asm volatile("griddepcontrol.wait;" ::: "memory");
}
