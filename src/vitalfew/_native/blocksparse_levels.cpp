// The loops of block-sparse products compiled for each instruction set.
#include "blocksparse_loops.hpp"

namespace blocksparse {
namespace {

#define OUTLINE static __attribute__((noinline))
#define LEVEL(NAME, LANES, TARGET, DOTS)                                                      \
  struct NAME {                                                                               \
    static constexpr int L = LANES;                                                           \
    static constexpr bool DOT = DOTS;                                                         \
    template <typename Vector>                                                                \
    static INLINE void dot(Vector &sum, Vector a, Vector b) {                                 \
      dot_of_pairs(sum, a, b);                                                                \
    }                                                                                         \
    TARGET OUTLINE void finish(const Weights &w, const Panel<float> &p, size_t row,           \
                               size_t rows, const float *sums, size_t width, bool turned) {   \
      blocksparse::finish<L>(w, p, row, rows, sums, width, turned);                           \
    }                                                                                         \
    TARGET OUTLINE void finish(const Weights &w, const Panel<uint16_t> &p, size_t row,        \
                               size_t rows, const float *sums, size_t width, bool turned) {   \
      blocksparse::finish<L>(w, p, row, rows, sums, width, turned);                           \
    }                                                                                         \
    TARGET static void slices(const Weights &w, const Panel<float> &p, size_t first,          \
                              size_t last) {                                                  \
      blocksparse::slices<NAME>(w, p, first, last);                                           \
    }                                                                                         \
    TARGET static void slices_half(const Weights &w, const Panel<uint16_t> &p, size_t first,  \
                                   size_t last) {                                             \
      blocksparse::slices<NAME>(w, p, first, last);                                           \
    }                                                                                         \
    TARGET static void pack_tokens(const float *x, ptrdiff_t ldx, size_t tokens,              \
                                   size_t first, size_t last, float *panel, size_t width) {   \
      blocksparse::pack_tokens<L>(x, ldx, tokens, first, last, panel, width);                 \
    }                                                                                         \
    TARGET static void pack_features(const float *x, ptrdiff_t ldx, size_t tokens,            \
                                     size_t first, size_t last, float *panel,                 \
                                     size_t width) {                                          \
      blocksparse::pack_features<L>(x, ldx, tokens, first, last, panel, width);               \
    }                                                                                         \
  };
#define LOOPS(NAME) NAME::slices, NAME::slices_half, NAME::pack_tokens, NAME::pack_features

// The instruction, not its intrinsic, which may not be inlined where others may.
template <typename Vector>
INLINE void dot_of_pairs(Vector &sum, Vector a, Vector b) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#endif
  (void)sum, (void)a, (void)b;
}

#if defined(__x86_64__) && defined(__GNUC__)
#define FOR_AVX2 __attribute__((target("avx2,fma")))
#define FOR_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
LEVEL(Avx2, 8, FOR_AVX2, false)
LEVEL(Avx512, 16, FOR_AVX512, false)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#if !defined(__clang__)
LEVEL(Avx512Bf16, 16, FOR_AVX512, true)
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif
#endif
LEVEL(Plain, 4, , false)

const Level all[] = {
#if defined(__x86_64__) && defined(__GNUC__)
#if !defined(__clang__)
    {"avx512_bf16", 16, {1, 2, 4, 3, 3}, {1, 1, 2, 4, 8}, has_avx512_bf16, LOOPS(Avx512Bf16)},
#endif
    {"avx512", 16, {1, 2, 4, 3, 3}, {1, 1, 2, 4, 8}, has_avx512, LOOPS(Avx512)},
    {"avx2", 8, {4, 4, 3, 3, 3}, {1, 1, 4, 4, 4}, has_avx2, LOOPS(Avx2)},
#endif
    {"plain", 4, {4, 4, 3, 3, 3}, {1, 1, 1, 1, 1}, [] { return true; }, LOOPS(Plain)},
};

}  // namespace

const Level *levels(size_t &count) {
  count = sizeof(all) / sizeof(all[0]);
  return all;
}

}  // namespace blocksparse
