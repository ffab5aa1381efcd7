// What one core can do at most: multiply-adds in registers, and reading memory.

#include <stddef.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

#define LANES (BYTES / 4)
#define CHAINS 16 // independent sums, enough to hide the latency of each
#define EACH _Pragma("GCC unroll 16") for (int j = 0; j < CHAINS; j++)
#define KEEP(v) __asm__ volatile("" : "+x"(v)) // neither removed nor reordered

typedef float vector __attribute__((vector_size(BYTES)));

// Each function makes n rounds and returns the operations of one.

#if defined(__x86_64__)
double float32(long n) {
    vector sums[CHAINS], a = {0}, b = {0};
    a += 0.999f, b += 0.001f;
    EACH sums[j] = a * (float)j;
    for (long i = 0; i < n; i++) EACH { sums[j] = sums[j] * a + b; KEEP(sums[j]); }
    return 2.0 * CHAINS * LANES;
}
#else
double float32(long n) { return 0; }
#endif

#if defined(__AVX512BF16__)
double bfloat16(long n) {
    __m512 sums[CHAINS];
    __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    EACH sums[j] = _mm512_set1_ps(j);
    for (long i = 0; i < n; i++)
        EACH { sums[j] = _mm512_dpbf16_ps(sums[j], a, a); KEEP(sums[j]); }
    return 2.0 * CHAINS * 2 * LANES;
}
#else
double bfloat16(long n) { return 0; }
#endif

#if defined(__AVX512VNNI__)
double int8(long n) {
    __m512i sums[CHAINS], a = _mm512_set1_epi32(0x01010101);
    EACH sums[j] = _mm512_set1_epi32(j);
    for (long i = 0; i < n; i++)
        EACH { sums[j] = _mm512_dpbusd_epi32(sums[j], a, a); KEEP(sums[j]); }
    return 2.0 * CHAINS * 4 * LANES;
}
#else
double int8(long n) { return 0; }
#endif

// Reads `size` floats, a multiple of 8 vectors, n times over.
float reading(const float *from, size_t size, long n) {
    vector sums[8];
    _Pragma("GCC unroll 8") for (int j = 0; j < 8; j++) sums[j] = (vector){0};
    for (long i = 0; i < n; i++)
        for (const float *p = from; p < from + size; p += 8 * LANES)
            _Pragma("GCC unroll 8") for (int j = 0; j < 8; j++)
                sums[j] += ((const vector *)p)[j];
    float total = 0;
    for (int j = 0; j < 8; j++) total += sums[j][0];
    return total;
}
