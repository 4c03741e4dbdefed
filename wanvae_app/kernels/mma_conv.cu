// Convolutions of padded frames for every GPU since Ampere, by `mma.sync` and `cp.async`. `mma_conv.py` starts this.
//
// A block computes a region of REGION_ROWS x 16 pixels for BN channels. Of each DEPTH channels it copies the region and
// the pixels around it into shared memory, once for all taps; and the weights, some columns of taps in a stage. A
// pixel's neighbourhood so crosses the L2 cache once, not nine times. While one stage is multiplied, those behind it are
// on their way. The fewer stages, the less often a block's warps wait for each other.
//
// A warp computes ROWS rows of 16 pixels. Of a column of three taps it needs ROWS + 2 rows of pixels, and it loads each
// once.
//
// FRAMES, the frames that a block makes together, say which algorithm it is (formulas: `winograd.cu`):
//   1  KT taps in time, one after another
//   2  F(2, 3): four frames are read together, and transformed in registers into what four products multiply
//   4  F(4, 3): six frames that `transform.py` has transformed, one after another. Each product is added to four sums.
// A frame, or the four of F(2, 3), is a round.
//
// Macros, besides ELEMENT and HALF:
//   FRAMES, KT              see above; KT is 1 or 3
//   TAPS                    3: 3 x 3 taps. 2: the 2 x 2 taps of a phase of an enlarged picture. 1: the pixel itself
//   BN                      channels out of a block, a multiple of 8 for each column of warps
//   ROWS                    rows of pixels of a warp
//   DEPTH                   channels in per step, 16 or 32
//   THREADS, BLOCKS         threads of a block, blocks of a multiprocessor
//   STAGES, STAGE_COLUMNS   stages in shared memory, columns of taps of a stage
//   RAGGED                  whether C is no multiple of DEPTH
//   RESIDUAL, PADDED        whether a residual is added; whether the result goes into padded frames
//   PER_OUTPUT, TIME_FACTOR channels of a shortcut for each channel out, 0 for none; see `shortcut.py`

constexpr int WARP_COLUMNS = THREADS / 128, WN = BN / WARP_COLUMNS, NT = WN / 8;
constexpr int REGION_ROWS = 4 * ROWS;
constexpr int COLUMNS = 18, PIXELS = (REGION_ROWS + 2) * COLUMNS;  // of the inputs
constexpr int CHUNKS = DEPTH / 8, ROW_BYTES = DEPTH * 2;  // a pixel's 16-byte chunks in a step
constexpr bool TWO = FRAMES == 2, FOUR = FRAMES == 4;
constexpr int PLANES = TWO ? 4 : 1;  // frames that are read together
constexpr int ROUNDS = TWO ? 1 : FOUR ? 6 : KT;
constexpr int UNITS = PIXELS * CHUNKS;  // chunks of a frame's inputs
constexpr int PLANE_BYTES = UNITS * 16, INPUT_BYTES = PLANES * PLANE_BYTES;
constexpr int MATRIX_BYTES = BN * ROW_BYTES;                // of one tap
constexpr int COLUMN_BYTES = TAPS * PLANES * MATRIX_BYTES;  // of a column of taps
constexpr int STAGE_BYTES = STAGE_COLUMNS * COLUMN_BYTES, PARTS = TAPS / STAGE_COLUMNS;  // of a step
constexpr int SUMS = TWO ? 4 : FOUR ? 5 : 1;  // with FOUR the last is the product that is being made
constexpr int AHEAD = STAGES - 1;             // stages on their way
constexpr int OFFSET = TAPS == 1;             // of the pixel itself in the inputs
constexpr float A = 11.f / 16, B = 23.f / 16;  // `winograd.POINTS`

// Returns where a row's chunk lies. Eight rows that are read together lie in different banks.
DEV u32 place(int row, int chunk) {
    return row * ROW_BYTES + ((chunk ^ (DEPTH == 16 ? row >> 2 & 1 : row >> 1 & 3)) << 4);
}

// Returns by what F(4, 3) multiplies product j in the sum of frame f.
DEV float coefficient(int j, int f) {
    const float p = j == 0 ? A : j == 1 ? -A : j == 2 ? B : -B;
    if (j == 4) return f == 0;
    if (j == 5) return f == 3;
    return f == 0 ? 1 : f == 1 ? p : f == 2 ? p * p : p * p * p;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
mma_conv_kernel(
    const u16* frames,    // padded frames [slots, H + 2, W + 2, C]
    const u16* weights,   // as `mma_conv.pack_taps` packs them
    const int* slots,     // [T + KT - 1]; FRAMES 2: [T + 2]; FRAMES 4: [T / 4, 6]
    const u16* bias,      // [N]
    const u16* residual,  // [T, H, W, N]
    const u16* shortcut,  // [T', H, W, PER_OUTPUT N]
    u16* out,             // [T, H, W, N]; TAPS 2: [T, 2 H, 2 W, N]; PADDED: padded frames [slots, H + 2, W + 2, N]
    const int* out_slots,                    // [T], with PADDED
    int T, int H, int W, int C, int N,
    int channel_blocks, int regions_across,  // blocks that hold all channels; regions side by side
    int first_frame                          // see `shortcut.py`
) {
    extern __shared__ __align__(128) unsigned char memory[];
    u32 base;
    asm("{\n.reg .u64 p;\ncvta.to.shared.u64 p, %1;\ncvt.u32.u64 %0, p;\n}" : "=r"(base) : "l"(memory));
    const u32 stages_at = base + 2 * INPUT_BYTES;
    int* const pixels_at = (int*)(memory + 2 * INPUT_BYTES + STAGES * STAGE_BYTES);  // [PIXELS]
    const int tid = threadIdx.x, lane = tid & 31, warp = __shfl_sync(~0u, tid >> 5, 0);
    const int warp_y = warp / WARP_COLUMNS * ROWS, warp_n = warp % WARP_COLUMNS * WN;
    // Neighbouring blocks read the same pixels.
    const int channel_block = blockIdx.x % channel_blocks;
    const int phase = TAPS == 2 ? blockIdx.x / channel_blocks % 4 : 0, dy = phase / 2, dx = phase % 2;
    const int groups = T / FRAMES, region = blockIdx.x / (channel_blocks * (TAPS == 2 ? 4 : 1));
    const int group = region % groups, n0 = channel_block * BN;
    const int y0 = region / groups / regions_across * REGION_ROWS, x0 = region / groups % regions_across * 16;
    const int stride = W + 2, steps = (C + DEPTH - 1) / DEPTH, all_steps = ROUNDS * steps;
    const long long frame = (long long)(H + 2) * stride * C;
    const int* const planes = slots + group * (FOUR ? 6 : FRAMES);

    for (int i = tid; i < PIXELS; i += THREADS) {
        const int y = y0 + i / COLUMNS, x = x0 + i % COLUMNS;
        pixels_at[i] = y < H + 2 && x < stride ? (y * stride + x) * C : -1;
    }
    __syncthreads();

    // Copies part `part` of PARTS of the inputs of a step.
    auto copy_inputs = [&](int part, int step) {
        const int round = ROUNDS == 1 ? 0 : step / steps, depth = (step - round * steps) * DEPTH;
        const u32 to = base + (step & 1) * INPUT_BYTES;
        const u16* from[PLANES];
#pragma unroll
        for (int j = 0; j < PLANES; ++j) from[j] = frames + planes[round + j] * frame + depth;
#pragma unroll
        for (int i = 0; i < (UNITS / PARTS + THREADS - 1) / THREADS; ++i) {
            const int in_part = i * THREADS + tid, unit = part * (UNITS / PARTS) + in_part, pixel = unit / CHUNKS;
            if (UNITS / PARTS % THREADS && in_part >= UNITS / PARTS) break;
            const int c = (place(pixel, unit % CHUNKS) - pixel * ROW_BYTES) >> 1;
            bool valid = pixels_at[pixel] >= 0;
            if (RAGGED) valid = valid && depth + c < C;
#pragma unroll
            for (int j = 0; j < PLANES; ++j)
                copy(to + j * PLANE_BYTES + unit * 16, from[j] + (valid ? pixels_at[pixel] + c : 0), valid);
        }
    };
    // Copies a stage of weights, counted through all steps. In memory it lies as it shall lie in shared memory.
    const u16* const my_weights =
        weights + (long long)(phase * channel_blocks + channel_block) * all_steps * PARTS * (STAGE_BYTES / 2);
    auto copy_weights = [&](int stage) {
        const u32 to = stages_at + stage % STAGES * STAGE_BYTES;
        const u16* from = my_weights + (long long)stage * (STAGE_BYTES / 2);
#pragma unroll
        for (int i = 0; i < (STAGE_BYTES / 16 + THREADS - 1) / THREADS; ++i) {
            const int unit = i * THREADS + tid;
            if (STAGE_BYTES / 16 % THREADS && unit >= STAGE_BYTES / 16) break;
            copy(to + unit * 16, from + unit * 8, true);
        }
    };

    float acc[SUMS][ROWS][NT][4];
#pragma unroll
    for (int s = 0; s < SUMS; ++s)
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int n = 0; n < NT; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) acc[s][r][n][i] = 0;
    for (int part = 0; part < PARTS; ++part) copy_inputs(part, 0);
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
        if (i < PARTS * all_steps) copy_weights(i);
        close_group();
    }
    // The rows that this thread names to load fragments of pixels, and of weights.
    const int my_pixel = (warp_y + dy + OFFSET) * COLUMNS + dx + OFFSET + (lane & 15), my_chunk = lane >> 4;
    const int my_row = warp_n + (lane & 7) + (lane >> 4) * 8, my_half = lane >> 3 & 1;
    for (int step = 0, stage = 0; step < all_steps; ++step) {
#pragma unroll 1
        for (int part = 0; part < PARTS; ++part, ++stage) {
            wait_for_groups<(AHEAD < PARTS ? AHEAD : PARTS) - 1>();
            __syncthreads();
            const u32 pixels = base + (step & 1) * INPUT_BYTES, stage_at = stages_at + stage % STAGES * STAGE_BYTES;
#pragma unroll
            for (int column = 0; column < STAGE_COLUMNS; ++column) {
                const u32 taps = stage_at + column * COLUMN_BYTES;
                const int kw = part * STAGE_COLUMNS + column;
#pragma unroll
                for (int k = 0; k < DEPTH / 16; ++k) {
                    u32 a[ROWS][PLANES][4];  // rows of pixels
                    auto load_row = [&](int row) {
                        u32 (&d)[PLANES][4] = a[row % ROWS];
                        const u32 at = pixels + place(my_pixel + kw + row * COLUMNS, my_chunk + 2 * k);
#pragma unroll
                        for (int j = 0; j < PLANES; ++j) load_four(d[j], at + j * PLANE_BYTES);
                        if (!TWO) return;
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            const u32 one = d[1 % PLANES][i], two = d[2 % PLANES][i];
                            d[0][i] = sub(d[0][i], two);
                            d[3 % PLANES][i] = sub(one, d[3 % PLANES][i]);
                            d[1 % PLANES][i] = add(one, two);
                            d[2 % PLANES][i] = sub(two, one);
                        }
                    };
#pragma unroll
                    for (int row = 0; row < ROWS - 1; ++row) load_row(row);
#pragma unroll
                    for (int kh = 0; kh < TAPS; ++kh) {
                        load_row(kh + ROWS - 1);
                        if (column == 0 && k == 0 && kh == 0) {  // behind loads that others may be waiting for
                            if (AHEAD == 1) {
                                if (step + 1 < all_steps) copy_inputs(part, step + 1);
                            } else if (part == 0 && step + 1 < all_steps) {
                                for (int i = 0; i < PARTS; ++i) copy_inputs(i, step + 1);
                            }
                            if (stage + AHEAD < PARTS * all_steps) copy_weights(stage + AHEAD);
                            close_group();
                        }
#pragma unroll
                        for (int j = 0; j < PLANES; ++j) {
                            const u32 at = taps + (kh * PLANES + j) * MATRIX_BYTES;
                            u32 b[(NT + 1) / 2][4];
#pragma unroll
                            for (int n = 0; n < NT / 2; ++n) load_four(b[n], at + place(my_row + n * 16, my_half + 2 * k));
                            if (NT % 2)
                                load_two(b[NT / 2][0], b[NT / 2][1],
                                         at + place(warp_n + (lane & 7) + NT / 2 * 16, my_half + 2 * k));
#pragma unroll
                            for (int r = 0; r < ROWS; ++r)
#pragma unroll
                                for (int n = 0; n < NT; ++n)
                                    multiply_add(acc[TWO ? j : SUMS - 1][r][n], a[(kh + r) % ROWS][j], b[n / 2][n % 2 * 2],
                                                 b[n / 2][n % 2 * 2 + 1]);
                        }
                    }
                }
            }
        }
        if (FOUR && (step + 1) % steps == 0) {  // a product is complete
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
#pragma unroll
                for (int n = 0; n < NT; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
#pragma unroll
                        for (int f = 0; f < 4; ++f)
                            acc[f % SUMS][r][n][i] += coefficient(step / steps, f) * acc[SUMS - 1][r][n][i];
                        acc[SUMS - 1][r][n][i] = 0;
                    }
        }
    }
    if (TWO)
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int n = 0; n < NT; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float one = acc[1 % SUMS][r][n][i], two = acc[2 % SUMS][r][n][i];
                    acc[0][r][n][i] += one + two;
                    acc[1 % SUMS][r][n][i] = one - two - acc[3 % SUMS][r][n][i];
                }

    // A thread holds two channels of each eight. Neighbours exchange two, so that each stores four together.
    const bool even = !(lane & 1);
    const int my_n = n0 + warp_n + (even ? 0 : 8) + (lane & 2) * 2;    // of a pair of eight channels
    const int last_n = n0 + warp_n + (NT - 1) * 8 + (lane & 3) * 2;  // of the last eight, if they have no pair
    auto pixel_of = [&](int f, int r, int h) {
        return (long long)((group * FRAMES + f) * H + y0 + warp_y + r) * W + x0 + h * 8 + (lane >> 2);
    };
    auto is_inside = [&](int r, int h, int n) {
        return y0 + warp_y + r < H && x0 + h * 8 + (lane >> 2) < W && n < N;
    };
    // A frame's residual is loaded before the frame ahead of it is stored: both may lie in the same memory, so the
    // compiler keeps this order.
    uint2 added[RESIDUAL ? 2 : 1][ROWS][2][(NT + 1) / 2];
    auto load_residual = [&](int f) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const u16* from = residual + pixel_of(f, r, h) * N;
#pragma unroll
                for (int p = 0; p < (NT + 1) / 2; ++p) {
                    uint2& to = added[RESIDUAL ? f & 1 : 0][r][h][p];
                    to = make_uint2(0, 0);
                    if (2 * p + 1 == NT) {
                        if (is_inside(r, h, last_n)) to.x = *(const u32*)(from + last_n);
                    } else if (is_inside(r, h, my_n + p * 16)) {
                        to = *(const uint2*)(from + my_n + p * 16);
                    }
                }
            }
    };
    // Returns two sums of channels from n on, with all that is added, as results.
    auto finish = [&](float2 v, u32 added_to_it, int f, int r, int h, int n) {
        const float2 b = unpack(*(const u32*)(bias + n)), q = unpack(added_to_it);
        v.x += b.x + (RESIDUAL ? q.x : 0), v.y += b.y + (RESIDUAL ? q.y : 0);
        if (PER_OUTPUT) {
            constexpr int PER = PER_OUTPUT ? PER_OUTPUT : 1, TIME = TIME_FACTOR ? TIME_FACTOR : 1;
            const int s = first_frame + group * FRAMES + f, y = y0 + warp_y + r, x = x0 + h * 8 + (lane >> 2);
            // A pixel becomes TIME x 2 x 2 pixels: each gets one of the channels.
            const int mine = ((s % TIME * 2 + dy) * 2 + dx) * PER / (TIME * 4);
            const u16* from = shortcut + (((long long)(s / TIME * H + y) * W + x) * N + n) * PER + mine;
            if (PER == 1) {
                const float2 both = unpack(*(const u32*)from);
                v.x += both.x, v.y += both.y;
            } else {
                v.x += to_float(from[0]), v.y += to_float(from[PER]);
            }
        }
        return pack(v.x, v.y);
    };
    if (RESIDUAL) load_residual(0);
#pragma unroll
    for (int f = 0; f < FRAMES; ++f) {
        if (RESIDUAL && f + 1 < FRAMES) load_residual(f + 1);
        const int t = group * FRAMES + f;
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int y = y0 + warp_y + r, x = x0 + h * 8 + (lane >> 2);
                long long pixel = pixel_of(f, r, h);
                if (TAPS == 2) pixel = (long long)(t * 2 * H + 2 * y + dy) * (2 * W) + 2 * x + dx;
                if (PADDED) pixel = ((long long)out_slots[t] * (H + 2) + y + 1) * stride + x + 1;
                u16* const to = out + pixel * N;
#pragma unroll
                for (int p = 0; p < NT / 2; ++p) {
                    const float (&one)[4] = acc[f][r][2 * p], (&two)[4] = acc[f][r][2 * p + 1];
                    const float got0 = __shfl_xor_sync(~0u, even ? two[h * 2] : one[h * 2], 1);
                    const float got1 = __shfl_xor_sync(~0u, even ? two[h * 2 + 1] : one[h * 2 + 1], 1);
                    const float2 lower = even ? make_float2(one[h * 2], one[h * 2 + 1]) : make_float2(got0, got1);
                    const float2 upper = even ? make_float2(got0, got1) : make_float2(two[h * 2], two[h * 2 + 1]);
                    const int n = my_n + p * 16;
                    const uint2 q = added[RESIDUAL ? f & 1 : 0][r][h][p];
                    if (is_inside(r, h, n))
                        *(uint2*)(to + n) =
                            make_uint2(finish(lower, q.x, f, r, h, n), finish(upper, q.y, f, r, h, n + 2));
                }
                if (NT % 2 && is_inside(r, h, last_n)) {
                    const float2 v = make_float2(acc[f][r][NT - 1][h * 2], acc[f][r][NT - 1][h * 2 + 1]);
                    const uint2 q = added[RESIDUAL ? f & 1 : 0][r][h][NT / 2];
                    *(u32*)(to + last_n) = finish(v, q.x, f, r, h, last_n);
                }
            }
    }
}
