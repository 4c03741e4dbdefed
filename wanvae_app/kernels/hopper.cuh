// What Hopper GPUs have and CUDA C++ has no words for: barriers, the copy engine, clusters, 16-bit numbers in pairs; and
// how kernels lay out their shared memory. `nvrtc.py` puts this in front of them. HALF: 16-bit numbers (in Winograd's
// kernel those that are not multiplied) are fp16, not bf16.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
struct alignas(64) Map { u64 opaque[16]; };

#define DEV static __device__ __forceinline__

// Where a block's shared memory begins, at a multiple of 1024 bytes.
DEV u32 aligned(const unsigned char* memory) {
    u32 base;
    asm("{\n.reg .u64 p;\ncvta.to.shared.u64 p, %1;\ncvt.u32.u64 %0, p;\n}" : "=r"(base) : "l"(memory));
    return (base + 1023) & ~1023u;
}
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
DEV void fetch(u32 to, const Map* map, u32 bar, int a, int b, int c, int d) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];"
                 ::"r"(to), "l"(map), "r"(bar), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
// With BOTH, to the same place in both blocks of a cluster, whose barriers hear of it.
template <bool BOTH> DEV void fetch_for(u32 to, const Map* map, u32 bar, int a, int b, int c, int d) {
    if (!BOTH) return fetch(to, map, bar, a, b, c, d);
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;"
                 ::"r"(to), "l"(map), "r"(bar), "r"(a), "r"(b), "r"(c), "r"(d), "h"(u16(3)) : "memory");
}
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
DEV void bar_arrive_at(u32 bar, u32 rank) {
    asm volatile("{\n.reg .u32 p;\nmapa.shared::cluster.u32 p, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [p];\n}" ::"r"(bar), "r"(rank) : "memory");
}
DEV void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
DEV float silu(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(.5f * x));
    return .5f * x * y + .5f * x;
}
DEV void load_words(u32 (&r)[4], u32 from) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
DEV void store_words(u32 to, const u32 (&r)[4]) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
                 ::"r"(to), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}
DEV u32 add(u32 a, u32 b) { u32 r; asm volatile("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
DEV u32 sub(u32 a, u32 b) { u32 r; asm volatile("sub.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
DEV u32 half2(float a, float b) { u32 r; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a)); return r; }
DEV u32 pack(float a, float b) {
#if HALF
    return half2(a, b);
#else
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
    return r;
#endif
}
DEV float wide(u32 low) {  // the number in the low 16 bits
#if HALF
    float r;
    asm("{\n.reg .b16 h, l;\nmov.b32 {l, h}, %1;\ncvt.f32.f16 %0, l;\n}" : "=f"(r) : "r"(low));
    return r;
#else
    return __uint_as_float(low << 16);
#endif
}
DEV void all_but_last_done() { asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory"); }
DEV void all_done() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// Pixels of 8 x 16 places and those around them, 32 channels each: four such tiles are one step's, in two buffers. Then
// a ring of stages, each with four matrices of weights [BN, 32] or with 8 x 16 results of BN channels.
constexpr int TH = 8, TW = 16, PITCH = TW + 2, HALO = (TH + 2) * PITCH;
constexpr int FRAME = (HALO * 64 + 511) / 512 * 512, A_BYTES = 4 * FRAME;  // bytes
constexpr int PART = BN * 64, B_BYTES = 4 * PART;
constexpr int A_AT = 0, B_AT = A_AT + 2 * A_BYTES;
constexpr int G = BN / 8;  // groups of eight channels

// This warp needs a stage no more: all who fill it are told.
DEV void release(u32 empty, int lane) {
    if (PAIR ? lane < 2 : lane == 0) PAIR ? bar_arrive_at(empty, lane) : bar_arrive(empty);
}

