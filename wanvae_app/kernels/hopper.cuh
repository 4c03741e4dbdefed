// What Hopper GPUs offer and CUDA C++ has no words for: barriers, the copy engine, clusters, pairs of 16-bit numbers.
// And the layout of shared memory. `hopper_kernel.py` puts this file in front of every kernel, and macros in front of
// it:
//   BN      channels out that a block computes, a multiple of 32
//   STAGES  stages of the ring in shared memory
//   PAIR    whether a cluster takes the same channels of two regions, and its blocks share weights
//   HALF    whether bias, residual, shortcut and results are fp16, not bf16
// The terms block, region, cluster and tile are those of `rounds.py`.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
struct alignas(64) Map { u64 opaque[16]; };  // CUtensorMap: how the copy engine sees a tensor

#define DEV static __device__ __forceinline__

// Returns where a block's shared memory begins, at a multiple of 1024 bytes.
DEV u32 aligned(const unsigned char* memory) {
    u32 base;
    asm("{\n.reg .u64 p;\ncvta.to.shared.u64 p, %1;\ncvt.u32.u64 %0, p;\n}" : "=r"(base) : "l"(memory));
    return (base + 1023) & ~1023u;
}

// Barriers lie in shared memory. A barrier's phase ends when `count` threads have arrived and all bytes that they
// expect have come; a wait for the parity of a phase returns once that phase has ended.
DEV void bar_init(u32 bar, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}
DEV void bar_arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
DEV void bar_expect(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
DEV void bar_wait(u32 bar, u32 parity) {
    asm volatile("{\n.reg .pred p;\nWAIT:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra WAIT;\nDONE:\n}"
                 ::"r"(bar), "r"(parity) : "memory");
}
DEV void bar_wait_cluster(u32 bar, u32 parity) {
    asm volatile("{\n.reg .pred p;\nWAIT:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra DONE;\nbra WAIT;\nDONE:\n}"
                 ::"r"(bar), "r"(parity) : "memory");
}

// Copies the box of a tensor that begins at channel a, column b, row c of frame d into shared memory; `bar` counts its
// bytes when they have come.
DEV void fetch(u32 to, const Map* map, u32 bar, int a, int b, int c, int d) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];"
                 ::"r"(to), "l"(map), "r"(bar), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
// The same; with BOTH to the same address in both blocks of a cluster, where the barriers at `bar` count it.
template <bool BOTH> DEV void fetch_to(u32 to, const Map* map, u32 bar, int a, int b, int c, int d) {
    if (!BOTH) return fetch(to, map, bar, a, b, c, d);
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;"
                 ::"r"(to), "l"(map), "r"(bar), "r"(a), "r"(b), "r"(c), "r"(d), "h"(u16(3)) : "memory");
}

// Copies shared memory to a box of a tensor, as part of this thread's next group of copies.
DEV void store(const Map* map, u32 from, int a, int b, int c, int d) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];"
                 ::"l"(map), "r"(from), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

DEV void store_word(u32 to, u32 value) { asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(value) : "memory"); }
DEV u32 load_word(u32 from) {
    u32 r;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(r) : "r"(from) : "memory");
    return r;
}

// Arrives at the same barrier of block `rank` of the cluster.
DEV void bar_arrive_at(u32 bar, u32 rank) {
    asm volatile("{\n.reg .u32 p;\nmapa.shared::cluster.u32 p, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [p];\n}" ::"r"(bar), "r"(rank) : "memory");
}
DEV void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

DEV float silu(float x) {  // x sigmoid(x) = x / 2 (tanh(x / 2) + 1)
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(.5f * x));
    return .5f * x * y + .5f * x;
}

DEV void load_four_words(u32 (&r)[4], u32 from) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
DEV void store_four_words(u32 to, const u32 (&r)[4]) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
                 ::"r"(to), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

// Arithmetic on two fp16 numbers in a word; `a` lies in the low 16 bits.
DEV u32 add(u32 a, u32 b) { u32 r; asm volatile("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
DEV u32 sub(u32 a, u32 b) { u32 r; asm volatile("sub.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
DEV u32 half2(float a, float b) { u32 r; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a)); return r; }
DEV u32 pack(float a, float b) {  // two numbers of the type that HALF says
#if HALF
    return half2(a, b);
#else
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
    return r;
#endif
}
DEV float to_float(u32 low) {  // the number in the low 16 bits, of that type
#if HALF
    float r;
    asm("{\n.reg .b16 h, l;\nmov.b32 {l, h}, %1;\ncvt.f32.f16 %0, l;\n}" : "=f"(r) : "r"(low));
    return r;
#else
    return __uint_as_float(low << 16);
#endif
}

// Wait for this warp group's products: all but those that were started last, or all.
DEV void wait_all_but_last() { asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory"); }
DEV void wait_all() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// Shared memory, in bytes. An input is a region of one frame and the pixels around it, 10 x 18, of 32 channels. There
// are two buffers of four inputs each. Behind them lies a ring of stages. A stage holds four matrices of weights [BN,
// 32], or the results of a region in one frame, 8 x 16 pixels of BN channels.
constexpr int REGION_ROWS = 8, REGION_COLUMNS = 16;
constexpr int PITCH = REGION_COLUMNS + 2;  // pixels of a row of an input
constexpr int INPUT_PIXELS = (REGION_ROWS + 2) * PITCH;
constexpr int INPUT_BYTES = (INPUT_PIXELS * 64 + 511) / 512 * 512, INPUTS_BYTES = 4 * INPUT_BYTES;
constexpr int MATRIX_BYTES = BN * 64, STAGE_BYTES = 4 * MATRIX_BYTES;
constexpr int INPUTS_AT = 0, RING_AT = INPUTS_AT + 2 * INPUTS_BYTES;
constexpr int GROUPS = BN / 8;  // of eight channels

// Says that this warp no longer reads a stage, to the blocks that fill it.
DEV void release(u32 empty, int lane) {
    if (PAIR ? lane < 2 : lane == 0) PAIR ? bar_arrive_at(empty, lane) : bar_arrive(empty);
}
