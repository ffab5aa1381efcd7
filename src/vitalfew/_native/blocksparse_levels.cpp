// The loops of block-sparse products compiled for each instruction set.
#include "blocksparse_loops.hpp"

namespace blocksparse {
namespace {

// Products of entries whose columns are several, for any vectors.
struct Anywhere {
  static constexpr bool PAIRS = false;
  template <int L>
  static INLINE void add_quads(Ints<L> &sum, Floats<L> w, Floats<L> x) {
    using Shorts = typename Of<L>::shorts;  // which hold the product of two bytes
    const auto product = [](Ints<L> a, Ints<L> b) __attribute__((always_inline)) {
      return reinterpret_cast<Signs<L>>(
          Shorts(reinterpret_cast<Shorts>(a) * reinterpret_cast<Shorts>(b)));
    };
    const Signs<L> even = product(even_bytes<L>(x), even_signs<L>(w));
    const Signs<L> odd = product(odd_bytes<L>(x), odd_signs<L>(w));
    const Ints<L> high = reinterpret_cast<Ints<L>>((even >> 16) + (odd >> 16));
    const Ints<L> low[] = {reinterpret_cast<Ints<L>>(even) << 16,
                           reinterpret_cast<Ints<L>>(odd) << 16};
    sum += high + reinterpret_cast<Ints<L>>((reinterpret_cast<Signs<L>>(low[0]) >> 16) +
                                            (reinterpret_cast<Signs<L>>(low[1]) >> 16));
  }
};

// By instructions, not by their intrinsics, which may not be inlined where others may.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
struct Widened : Anywhere {
  template <int L>
  static INLINE void add_quads(Ints<L> &sum, Floats<L> w, Floats<L> x) {
    Ints<L> even, odd;
    __asm__("vpmaddwd %2, %1, %0" : "=v"(even) : "v"(even_bytes<L>(x)), "v"(even_signs<L>(w)));
    __asm__("vpmaddwd %2, %1, %0" : "=v"(odd) : "v"(odd_bytes<L>(x)), "v"(odd_signs<L>(w)));
    sum += even + odd;
  }
};

struct Vnni : Anywhere {  // of 512 bits, or what came with them
  template <int L>
  static INLINE void add_quads(Ints<L> &sum, Floats<L> w, Floats<L> x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  }
};

struct VnniOfAvx : Anywhere {
  template <int L>
  static INLINE void add_quads(Ints<L> &sum, Floats<L> w, Floats<L> x) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
  }
};

struct Bf16 : Vnni {
  static constexpr bool PAIRS = true;
  template <typename Vector>
  static INLINE void add_pairs(Vector &sum, Vector a, Vector b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
};
#else
using Widened = Anywhere;
#endif

// Functions of which each is small enough for the compiler to keep sums in registers.
#define OUTLINE static __attribute__((noinline))
#define LEVEL(NAME, LANES, TARGET, INSTRUCTIONS)                                              \
  struct NAME : INSTRUCTIONS {                                                                \
    using Instructions = INSTRUCTIONS;                                                        \
    static constexpr int L = LANES;                                                           \
    template <typename Entry>                                                                 \
    TARGET OUTLINE void finish(const Weights &w, const Panel<typename Entry::Number> &p,      \
                               size_t row, size_t rows, const float *sums, size_t width,      \
                               bool turned) {                                                 \
      blocksparse::finish<L, Entry>(w, p, row, rows, sums, width, turned);                    \
    }                                                                                         \
    template <typename Entry, int H>                                                          \
    TARGET OUTLINE void one_by_one(const Weights &w, const Panel<typename Entry::Number> &p,  \
                                   size_t first, size_t last) {                               \
      blocksparse::slices_one_by_one<NAME, Entry, H>(w, p, first, last);                      \
    }                                                                                         \
    template <typename Entry, int H>                                                          \
    TARGET OUTLINE void high(const Weights &w, const Panel<typename Entry::Number> &p,        \
                             size_t first, size_t last) {                                     \
      blocksparse::slices_high<NAME, Entry, H>(w, p, first, last);                            \
    }                                                                                         \
    template <typename Entry>                                                                 \
    TARGET static void slices(const Weights &w, const Panel<typename Entry::Number> &p,       \
                              size_t first, size_t last) {                                    \
      blocksparse::slices<NAME, Entry>(w, p, first, last);                                    \
    }                                                                                         \
    TARGET static void pack_tokens(const float *x, ptrdiff_t ldx, size_t tokens,              \
                                   size_t first, size_t last, float *panel, size_t width) {   \
      blocksparse::pack_tokens<L>(Copied{x, ldx}, tokens, first, last, panel, width);         \
    }                                                                                         \
    TARGET static void pack_features(const float *x, ptrdiff_t ldx, size_t tokens,            \
                                     size_t first, size_t last, float *panel,                 \
                                     size_t width) {                                          \
      blocksparse::pack_features<L>(x, ldx, tokens, first, last, panel, width);               \
    }                                                                                         \
    TARGET static void pack_halves(const float *x, ptrdiff_t ldx, size_t tokens, size_t n_in, \
                                   size_t first, size_t last, float *panel, size_t width) {   \
      blocksparse::pack_tokens<L>(Halved{x, ldx, n_in}, tokens, first, last, panel, width);   \
    }                                                                                         \
    TARGET static void measure(const float *x, ptrdiff_t ldx, size_t tokens, size_t n_in,     \
                               float *scales, float *inverses) {                              \
      blocksparse::measure<L>(x, ldx, tokens, n_in, scales, inverses);                        \
    }                                                                                         \
    TARGET static void pack_bytes(const float *x, ptrdiff_t ldx, size_t tokens, size_t n_in,  \
                                  const float *inverses, size_t first, size_t last,           \
                                  float *panel, size_t width) {                               \
      const Rounded source{x, ldx, n_in, inverses};                                           \
      blocksparse::pack_tokens<L>(source, tokens, first, last, panel, width);                 \
    }                                                                                         \
    TARGET static void unpack_tokens(const float *panel, size_t width, size_t features,       \
                                     size_t positions, float *y, ptrdiff_t ldy) {             \
      blocksparse::unpack_tokens<L>(panel, width, features, positions, y, ldy);               \
    }                                                                                         \
    TARGET static void add(const float *a, const float *b, size_t n, Activation how,          \
                           float *to) {                                                       \
      add_lines<L>(a, b, n, how, to);                                                         \
    }                                                                                         \
  };
// Each kind of number has the instructions that suit it; the rest is the same.
#define LOOPS(NAME, PAIRS, QUADS)                                                             \
  NAME::slices<Single>, PAIRS::slices<Pair>, PAIRS::slices<MixedPair>, QUADS::slices<Quad>,   \
      NAME::pack_tokens, NAME::pack_features, NAME::pack_halves, NAME::measure,               \
      NAME::pack_bytes, NAME::unpack_tokens, NAME::add

#if defined(__x86_64__) && defined(__GNUC__)
#define FOR_AVX2 __attribute__((target("avx2,fma")))
#define FOR_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
LEVEL(Avx2, 8, FOR_AVX2, Widened)
LEVEL(Avx512, 16, FOR_AVX512, Widened)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#if !defined(__clang__)
LEVEL(Avx2Vnni, 8, FOR_AVX2, VnniOfAvx)
LEVEL(Avx512Dots, 16, FOR_AVX512, Bf16)
bool has_avx2_vnni() { return has_avx2() && __builtin_cpu_supports("avxvnni"); }
bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool has_avx512_bf16() { return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif
#endif
LEVEL(Plain, 4, , Anywhere)

const Level all[] = {
#if defined(__x86_64__) && defined(__GNUC__)
#if !defined(__clang__)
    {"avx512_bf16", 16, {1, 2, 4, 3, 3}, {1, 1, 2, 4, 8}, has_avx512_bf16,
     LOOPS(Avx512, Avx512Dots, Avx512Dots)},
    {"avx512_vnni", 16, {1, 2, 4, 3, 3}, {1, 1, 2, 4, 8}, has_avx512_vnni,
     LOOPS(Avx512, Avx512, Avx512Dots)},
#endif
    {"avx512", 16, {1, 2, 4, 3, 3}, {1, 1, 2, 4, 8}, has_avx512,
     LOOPS(Avx512, Avx512, Avx512)},
#if !defined(__clang__)
    {"avx2_vnni", 8, {4, 4, 3, 3, 3}, {1, 1, 4, 4, 4}, has_avx2_vnni,
     LOOPS(Avx2, Avx2, Avx2Vnni)},
#endif
    {"avx2", 8, {4, 4, 3, 3, 3}, {1, 1, 4, 4, 4}, has_avx2, LOOPS(Avx2, Avx2, Avx2)},
#endif
    {"plain", 4, {4, 4, 3, 3, 3}, {1, 1, 1, 1, 1}, [] { return true; },
     LOOPS(Plain, Plain, Plain)},
};

}  // namespace

const Level *levels(size_t &count) {
  count = sizeof(all) / sizeof(all[0]);
  return all;
}

}  // namespace blocksparse
