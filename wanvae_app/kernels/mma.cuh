// What tensor cores offer from Ampere on and CUDA C++ has no words for: copies to shared memory, fragments of matrices,
// their products, pairs of 16-bit numbers. `mma_kernel.py` puts macros and this file in front of `mma_conv.cu`.

typedef unsigned int u32;
typedef unsigned short u16;

#define DEV static __device__ __forceinline__

// Starts to copy 16 bytes to shared memory; writes zeros there unless `valid`.
DEV void copy(u32 to, const u16* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
// Closes a group of copies. Waits until at most N groups, the youngest, are on their way.
DEV void close_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEV void wait_for_groups() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Loads four, or two, 8 x 8 matrices of 16-bit numbers. Each thread gives the address of one row.
DEV void load_four(u32 (&r)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}
DEV void load_two(u32& a, u32& b, u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "r"(row) : "memory");
}
// Adds the product of 16 pixels and 8 channels out over 16 channels in.
DEV void multiply_add(float (&p)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." ELEMENT "." ELEMENT ".f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(p[0]), "+f"(p[1]), "+f"(p[2]), "+f"(p[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Add and subtract pairs of fp16 numbers.
DEV u32 add(u32 a, u32 b) { u32 c; asm("add.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b)); return c; }
DEV u32 sub(u32 a, u32 b) { u32 c; asm("sub.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b)); return c; }

// Convert two numbers between float and what bias, residual, shortcut and results are: fp16 with HALF, else bf16.
DEV float to_float(u16 v) {
#if HALF
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
    return f;
#else
    return __uint_as_float(u32(v) << 16);
#endif
}
DEV float2 unpack(u32 v) { return make_float2(to_float(u16(v & 0xffff)), to_float(u16(v >> 16))); }
DEV u32 pack(float x, float y) {
    u32 v;
#if HALF
    asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(v) : "f"(x), "f"(y));
#else
    asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(v) : "f"(x), "f"(y));
#endif
    return v;
}
