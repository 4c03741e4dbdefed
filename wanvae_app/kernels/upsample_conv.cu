// 3x3 convolutions of a picture enlarged twice by repetition, without enlarging it. `upsample_conv.py` starts this.
//
// A phase is the pixels (2 y + dy, 2 x + dx) of the large picture for one dy and dx. Of three neighbours in the large
// picture two are the same pixel of the small one, so each of the four phases is a 2x2 convolution of the small
// picture (see `packed_weights.fold_upsampling`).
//
// A block computes the four phases of 8 x 16 pixels for BN channels.
// - One thread keeps the copy engine busy. It fetches 10 x 18 pixels for four times 32 channels; then, for each 32
//   channels and each of four taps, the weights of the four phases.
// - Two groups of four warps multiply, 8 x 8 pixels each. The tensor cores read these from shared memory, at the
//   offset of phase and tap.
//
// As in `winograd.cu`, the blocks of a cluster take two regions and share the weights, and results leave through the
// ring that weights come in.
//
// Macros, besides those of `hopper.cuh`: CHANNELS_PER_OUTPUT (1 or 2; 0 for no shortcut) and TIME_FACTOR: see
// `shortcut.py`.

constexpr int BAR_AT = RING_AT + STAGES * STAGE_BYTES;

// Sets a tile's first channel n0, frame t, and position in the picture. Neighbouring tiles share what they read.
#define LOCATE \
    const int n0 = tile % channel_blocks * BN, region = tile / channel_blocks * 2 + rank; \
    const int t = region % T, position = region / T;

extern "C" __global__ void __launch_bounds__(384, 1)
__cluster_dims__(2, 1, 1)
upsample_conv_kernel(
    const __grid_constant__ Map frames,      // padded frames [slots, H + 2, W + 2, C], box [1, 10, 18, 32]
    const __grid_constant__ Map weights,     // [4 taps, 4 phases, N, C], box [1, 2, BN, 32]
    const __grid_constant__ Map phase00,     // results of phase dy = 0, dx = 0: [T, H, W, N], box [1, 2, 8, 32]
    const __grid_constant__ Map phase01, const __grid_constant__ Map phase10, const __grid_constant__ Map phase11,
    const int* slots,                        // [T]
    const u16* bias,                         // [N]
    const u16* shortcut,                     // [T', H, W, CHANNELS_PER_OUTPUT N]
    int T, int H, int W, int C, int N,
    int first_frame,                         // of the result, among the TIME_FACTOR T' frames that the shortcut becomes
    int channel_blocks, int regions_across,  // blocks that hold all channels; regions side by side
    int begin, int end                       // the tiles of this launch
) {
    extern __shared__ unsigned char memory[];
    const u32 base = aligned(memory);
    // Barriers: two for the buffers of inputs, STAGES for the ring. Readers wait for `full`, the writer for `empty`.
    const u32 full_inputs = base + BAR_AT, empty_inputs = full_inputs + 16;
    const u32 full_stages = empty_inputs + 16, empty_stages = full_stages + 8 * STAGES;
    const int group = threadIdx.x / 128, steps = (C + 31) / 32, rank = blockIdx.x % 2;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) bar_init(full_inputs + 8 * i, 1), bar_init(empty_inputs + 8 * i, 8);
        for (int i = 0; i < STAGES; ++i) bar_init(full_stages + 8 * i, 1), bar_init(empty_stages + 8 * i, 16);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    cluster_sync();
    asm volatile("griddepcontrol.launch_dependents;");  // a launch of narrower blocks: see `winograd.cu`
    if (group == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 256) {
            int inputs = 0, filled = 0;  // buffers of inputs and stages that were filled so far
            for (int tile = begin + blockIdx.x / 2; tile < end; tile += gridDim.x / 2) {
                LOCATE
                const int y0 = position / regions_across * REGION_ROWS;
                const int x0 = position % regions_across * REGION_COLUMNS;
                for (int step = 0; step < steps; ++step) {
                    if (step % 4 == 0) {
                        const u32 bar = full_inputs + 8 * (inputs & 1);
                        const u32 to = base + INPUTS_AT + (inputs & 1) * INPUTS_BYTES;
                        const int count = steps - step < 4 ? steps - step : 4;
                        bar_wait(empty_inputs + 8 * (inputs & 1), (inputs >> 1 & 1) ^ 1);
                        bar_expect(bar, count * INPUT_PIXELS * 64);
                        for (int j = 0; j < count; ++j)
                            fetch(to + j * INPUT_BYTES, &frames, bar, (step + j) * 32, x0, y0, slots[t]);
                        ++inputs;
                    }
                    for (int tap = 0; tap < 4; ++tap, ++filled) {
                        const u32 full = full_stages + 8 * (filled % STAGES);
                        const u32 at = base + RING_AT + filled % STAGES * STAGE_BYTES;
                        bar_wait(empty_stages + 8 * (filled % STAGES), (filled / STAGES & 1) ^ 1);
                        bar_expect(full, STAGE_BYTES);
                        fetch_to<true>(at + rank * 2 * MATRIX_BYTES, &weights, full, step * 32, n0, rank * 2, tap);
                    }
                }
                for (int phase = 0; phase < 4; ++phase, ++filled) {  // stages that results leave from
                    bar_wait(empty_stages + 8 * (filled % STAGES), (filled / STAGES & 1) ^ 1);
                    bar_arrive(full_stages + 8 * (filled % STAGES));
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        const int lane = threadIdx.x & 31;
        const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);  // computes 2 x 8 of its group's 8 x 8 pixels
        const int warp_x = warp / 4 * 8, warp_y = warp % 4 * 2, g = lane >> 2, c = (lane & 3) * 2;
        const u64 weights_desc = (2ull << 62) | (32ull << 32) | (1ull << 16) | ((base + RING_AT) >> 4);
        const u64 inputs_desc =
            (2ull << 62) | (u64(PITCH * 4) << 32) | (1ull << 16) | ((base + INPUTS_AT + warp_x * 64) >> 4);
        u32 inputs = 0, stage = 0, parity = 0;
        u32 first_leaving = 0;  // the first of four stages that results leave from
        bool leaving = false;  // whether results are in these stages
        float acc[4][REGS];
        for (int tile = begin + blockIdx.x / 2; tile < end; tile += gridDim.x / 2) {
            u32 previous = 0;  // the stage ahead of `stage`
            for (int step = 0; step < steps; ++step) {
                if (step % 4 == 0) bar_wait(full_inputs + 8 * (inputs & 1), inputs >> 1 & 1);
                const u64 pixels = inputs_desc + (inputs & 1) * (INPUTS_BYTES >> 4) + step % 4 * (INPUT_BYTES >> 4);
#pragma unroll
                for (int tap = 0; tap < 4; ++tap) {
                    const u64 w = weights_desc + stage * (STAGE_BYTES >> 4);
                    const bool accumulate = tap > 0 || step > 0;
                    bar_wait(full_stages + 8 * stage, parity);
                    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                    for (int k = 0; k < 2; ++k)
#pragma unroll
                        for (int j = 0; j < 4; ++j)
                            multiply(acc[j], pixels + ((tap / 2 + j / 2) * PITCH + tap % 2 + j % 2) * 4 + 2 * k,
                                     w + j * (MATRIX_BYTES >> 4) + 2 * k, k > 0 || accumulate);
                    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                    if (tap == 0 && leaving) {  // results of the tile ahead of this one
                        if (lane == 0) wait_read();
                        __syncwarp();
                        for (int i = 0; i < 4; ++i) release(empty_stages + 8 * ((first_leaving + i) % STAGES), lane);
                        leaving = false;
                    }
                    wait_all_but_last();
                    if (accumulate) release(empty_stages + 8 * previous, lane);
                    if (tap == 0 && step % 4 == 0 && step > 0 && lane == 0)
                        bar_arrive(empty_inputs + 8 * (inputs & 1 ^ 1));
                    previous = stage;
                    if (++stage == STAGES) stage = 0, parity ^= 1;
                }
                if (step % 4 == 3 || step + 1 == steps) ++inputs;
            }
            wait_all();
            release(empty_stages + 8 * previous, lane);
            if (lane == 0) bar_arrive(empty_inputs + 8 * (inputs & 1 ^ 1));
            LOCATE
            const int y = position / regions_across * REGION_ROWS + warp_y;
            const int x = position % regions_across * REGION_COLUMNS + warp_x;
            first_leaving = stage;
#pragma unroll
            for (int dy = 0; dy < 2; ++dy) {
                u32 results[2];  // where this thread's pixel of row 0 lies in both phases' stages
#pragma unroll
                for (int dx = 0; dx < 2; ++dx) {
                    results[dx] = first_result(base, stage, warp, lane);
                    bar_wait(full_stages + 8 * stage, parity);
                    if (++stage == STAGES) stage = 0, parity ^= 1;
                }
#pragma unroll
                for (int j = 0; j < GROUPS; ++j) {
                    const int n = n0 + 8 * j + c;
                    const u32 b = load_two(bias, n0, j, N, lane);
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        u32 one = 0, two = 0;  // the shortcut's channels for these two channels
                        if (CHANNELS_PER_OUTPUT && n < N && y + h < H && x + g < W) {
                            const long long frame = (first_frame + t) / TIME_FACTOR;
                            const long long at = ((frame * H + y + h) * W + x + g) * N + n;
                            if (CHANNELS_PER_OUTPUT == 1) {
                                one = __ldg((const u32*)(shortcut + at));
                            } else {
                                one = __ldg((const u32*)(shortcut + 2 * at));
                                two = __ldg((const u32*)(shortcut + 2 * at) + 1);
                            }
                        }
#pragma unroll
                        for (int dx = 0; dx < 2; ++dx) {
                            float p = acc[2 * dy + dx][4 * j + 2 * h], q = acc[2 * dy + dx][4 * j + 2 * h + 1];
                            p += to_float(b & 0xffff), q += to_float(b >> 16);
                            if (CHANNELS_PER_OUTPUT == 1) p += to_float(one & 0xffff), q += to_float(one >> 16);
                            if (CHANNELS_PER_OUTPUT == 2) {  // of the 4 TIME_FACTOR pixels that a pixel becomes,
                                const int copy = ((first_frame + t) % TIME_FACTOR * 2 + dy) * 2 + dx;
                                const int mine = copy * 2 / (4 * TIME_FACTOR) * 16;  // each gets one of both channels
                                p += to_float(one >> mine & 0xffff), q += to_float(two >> mine & 0xffff);
                            }
                            store_word(results[dx] + result_offset(j, h, lane), pack(p, q));
                        }
                    }
                }
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                __syncwarp();
                if (lane == 0) {
#pragma unroll
                    for (int dx = 0; dx < 2; ++dx)
                        store_results(dy ? dx ? &phase11 : &phase10 : dx ? &phase01 : &phase00, base,
                                      (first_leaving + 2 * dy + dx) % STAGES, warp, n0, x, y, t);
                    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
                }
            }
            leaving = true;
        }
        if (lane == 0) wait_written();
    }
    // No block ends while the other may still write to its shared memory or barriers.
    __syncwarp();
    cluster_sync();
    asm volatile("griddepcontrol.wait;" ::: "memory");
}
