// The loops of block-sparse products for vectors of L floats, written once for all
// instruction sets; everything here is inlined into functions compiled for one of them.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "blocksparse.hpp"
#include "common.hpp"

// Sums stay in registers only if the loops over them are unrolled. Under the sanitizers
// they need not, and would take minutes to compile.
#define PRAGMA(TEXT) _Pragma(#TEXT)
#if defined(VITALFEW_NO_CLONES)
#define UNROLL(N)
#elif defined(__clang__)
#define UNROLL(N) PRAGMA(clang loop unroll(full))
#else
#define UNROLL(N) PRAGMA(GCC unroll N)
#endif

// Rounds a product before what is added to it, on every instruction set; Clang does not
// fuse the two across statements.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define SEPARATE(V) __asm__("" : "+v"(V))
#elif defined(__GNUC__) && !defined(__clang__) && defined(__aarch64__)
#define SEPARATE(V) __asm__("" : "+w"(V))
#else
#define SEPARATE(V)
#endif

namespace blocksparse {
namespace {

template <int L>
struct Of {
  typedef float floats __attribute__((vector_size(L * 4), aligned(4), may_alias));
  typedef uint32_t ints __attribute__((vector_size(L * 4), aligned(4), may_alias));
  typedef uint16_t halves __attribute__((vector_size(L * 2), aligned(2), may_alias));
  typedef uint8_t bytes __attribute__((vector_size(L * 4), aligned(1), may_alias));
  typedef int32_t signs __attribute__((vector_size(L * 4), aligned(4), may_alias));
  typedef uint16_t shorts __attribute__((vector_size(L * 4), aligned(2), may_alias));
  typedef int16_t signed_shorts __attribute__((vector_size(L * 4), aligned(2), may_alias));
};
typedef uint32_t Word __attribute__((may_alias));
template <int L>
using Floats = typename Of<L>::floats;
template <int L>
using Ints = typename Of<L>::ints;
template <int L>
using Signs = typename Of<L>::signs;
template <int L>
using Halves = typename Of<L>::halves;

template <int L>
INLINE Floats<L> load(const float *from) {
  return *reinterpret_cast<const Floats<L> *>(from);
}
template <int L>
INLINE void store(float *to, Floats<L> v) {
  *reinterpret_cast<Floats<L> *>(to) = v;
}

// The same of numbers of either kind.
template <int L>
INLINE Floats<L> read(const float *from) {
  return load<L>(from);
}
template <int L>
INLINE Floats<L> read(const uint16_t *from) {
  const auto held = *reinterpret_cast<const Halves<L> *>(from);
  return reinterpret_cast<Floats<L>>(__builtin_convertvector(held, Ints<L>) << 16);
}
template <int L>
INLINE void write(float *to, Floats<L> v) {
  store<L>(to, v);
}
template <int L>
INLINE void write(uint16_t *to, Floats<L> v) {
  const Ints<L> bits = reinterpret_cast<Ints<L>>(v);
  const Ints<L> rounded = bits + 0x7FFF + ((bits >> 16) & 1);
  const Ints<L> kept = (v == v) ? rounded : (bits | 0x400000);
  *reinterpret_cast<Halves<L> *>(to) = __builtin_convertvector(kept >> 16, Halves<L>);
}

// e^x to two units in the last place, with zero and infinity where they belong.
template <int L>
INLINE Floats<L> exponential(Floats<L> x) {
  const Floats<L> least = Floats<L>{} - 104.0f, most = Floats<L>{} + 89.0f;
  x = x < least ? least : x;
  x = x > most ? most : x;
  const float shift = 12582912.0f;  // adding it rounds to a whole number
  const Floats<L> shifted = x * 1.44269504f + shift;
  const Floats<L> n = shifted - shift;
  const Floats<L> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats<L> p = r * 1.9841270e-4f + 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors, for n runs from -150 to 128
  const Ints<L> whole = reinterpret_cast<Ints<L>>(shifted) - 0x4B400000 + 256;
  const Ints<L> half = (whole >> 1) - 128, rest = whole - 256 - half;
  return p * reinterpret_cast<Floats<L>>((half + 127) * (1 << 23)) *
         reinterpret_cast<Floats<L>>((rest + 127) * (1 << 23));
}

// The normal distribution function: erfc(z) = exp(-z^2) times a polynomial in
// 1 / (1 + a z), fitted to a relative error of 10^-8.
template <int L>
INLINE Floats<L> normal(Floats<L> x) {
  const Floats<L> z = (x < 0.0f ? -x : x) * 0.707106781f;
  const Floats<L> t = 1.0f / (1.0f + z * 0.3f);
  const float fit[] = {0.0845937179f,  0.0853617514f, 0.0741440335f,  0.107550691f, -0.0475083934f,
                       0.27409854f, -0.256328818f, 0.242866012f, -0.0647775453f};
  Floats<L> p = Floats<L>{} + fit[8];
  for (int i = 8; i-- > 0;) p = p * t + fit[i];
  p = p * t * exponential<L>(-z * z);
  return x < 0.0f ? p : 1.0f - p;
}

template <int L>
INLINE Floats<L> activate(Floats<L> x, Activation how) {
  switch (how) {
    case Activation::relu:
      return x < 0.0f ? Floats<L>{} : x;
    case Activation::gelu:
      return x * normal<L>(x);
    case Activation::silu:
      return x / (1.0f + exponential<L>(-x));
    default:
      return x;
  }
}

template <int L, bool HIGH, size_t... I>
INLINE Floats<L> interleave(Floats<L> a, Floats<L> b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, (int(I / 2) + (HIGH ? L / 2 : 0) + (I % 2 ? L : 0))...);
}

// Every second element, which narrows what is small.
template <typename V, size_t... I>
INLINE V evens(V a, V b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, int(2 * I)...);
}

// Transposes L vectors of L floats: log2(L) times the perfect shuffle.
template <int L>
INLINE void turn(Floats<L> *v) {
  constexpr auto all = std::make_index_sequence<L>();
  Floats<L> w[L];
UNROLL(4)
  for (int size = 1; size < L; size *= 2) {
UNROLL(8)
    for (int i = 0; i < L / 2; ++i) {
      w[2 * i] = interleave<L, false>(v[i], v[i + L / 2], all);
      w[2 * i + 1] = interleave<L, true>(v[i], v[i + L / 2], all);
    }
UNROLL(16)
    for (int i = 0; i < L; ++i) v[i] = w[i];
  }
}

// Words of bytes in two parts: each second byte as a number of 16 bits.
template <int L>
INLINE Ints<L> even_bytes(Floats<L> x) {
  return reinterpret_cast<Ints<L>>(x) & 0x00FF00FFu;
}
template <int L>
INLINE Ints<L> odd_bytes(Floats<L> x) {
  return (reinterpret_cast<Ints<L>>(x) >> 8) & 0x00FF00FFu;
}
template <int L>
INLINE Ints<L> even_signs(Floats<L> w) {
  using Shorts = typename Of<L>::shorts;
  using Signed = typename Of<L>::signed_shorts;
  const Shorts high = reinterpret_cast<Shorts>(w) << 8;
  return reinterpret_cast<Ints<L>>(reinterpret_cast<Signed>(high) >> 8);
}
template <int L>
INLINE Ints<L> odd_signs(Floats<L> w) {
  using Signed = typename Of<L>::signed_shorts;
  return reinterpret_cast<Ints<L>>(reinterpret_cast<Signed>(w) >> 8);
}

// What meets in one entry: numbers, pairs of bfloat16, or quads of bytes, which are signed
// in weights and not in tokens.
struct Single {
  using Number = float;  // of tokens and results
  template <int L>
  using Sum = Floats<L>;
  static constexpr bool BYTES = false;
  template <typename K, int L>
  static INLINE float weight(const float *w) {
    return *w;
  }
  template <typename K, int L, typename A, typename B>
  static INLINE void add(Floats<L> &sum, A w, B x) {
    sum += w * x;
  }
};

struct Words {
  template <typename K, int L>
  static INLINE Floats<L> weight(const float *w) {
    return reinterpret_cast<Floats<L>>(Ints<L>{} + *reinterpret_cast<const Word *>(w));
  }
};

struct Pair : Words {
  using Number = uint16_t;
  template <int L>
  using Sum = Floats<L>;
  static constexpr bool BYTES = false;
  template <typename K, int L>
  static INLINE void add(Floats<L> &sum, Floats<L> w, Floats<L> x) {
    if constexpr (K::PAIRS) {
      K::add_pairs(sum, w, x);
    } else {
      const Ints<L> a = reinterpret_cast<Ints<L>>(w), b = reinterpret_cast<Ints<L>>(x);
      sum += reinterpret_cast<Floats<L>>(a << 16) * reinterpret_cast<Floats<L>>(b << 16);
      sum += reinterpret_cast<Floats<L>>(a & 0xFFFF0000u) *
             reinterpret_cast<Floats<L>>(b & 0xFFFF0000u);
    }
  }
};

struct MixedPair : Pair {
  using Number = float;
};

struct Quad : Words {
  using Number = float;
  template <int L>
  using Sum = Ints<L>;
  static constexpr bool BYTES = true;
  template <typename K, int L>
  static INLINE void add(Ints<L> &sum, Floats<L> w, Floats<L> x) {
    K::template add_quads<L>(sum, w, x);
  }
};

constexpr size_t SOON = 8192;  // bytes of weights between asking and use

// Asks for weights that are needed soon; the processor does not see so far ahead by itself.
INLINE void fetch(const float *w) {
  __builtin_prefetch(reinterpret_cast<const void *>(reinterpret_cast<uintptr_t>(w) + SOON));
}

// Sums of M of H rows over NT vectors of positions; U sets of sums hide the time that one
// product takes, and E entries a cache line of weights.
template <typename K, typename Entry, int L, int H, int M, int NT, bool FETCH>
INLINE void sum_positions(const int32_t *at, size_t count, const float *values, const float *x,
                          ptrdiff_t ld, float *out) {
  constexpr int U = std::max(1, 8 / (M * NT)), E = std::max(U, 16 / H);
  using Sum = typename Entry::template Sum<L>;
  Sum sums[U][M][NT];
UNROLL(8)
  for (int u = 0; u < U; ++u)
UNROLL(16)
    for (int h = 0; h < M; ++h)
UNROLL(8)
      for (int t = 0; t < NT; ++t) sums[u][h][t] = Sum{};
  size_t e = 0;
  for (; e + E <= count; e += E) {
UNROLL(16)
    for (int u = 0; u < E; ++u) {
      const float *from = x + at[e + u] * ld, *w = values + u * H;
      if (FETCH && u * H % 16 == 0) fetch(w);
      Floats<L> v[NT];
UNROLL(8)
      for (int t = 0; t < NT; ++t) v[t] = load<L>(from + t * L);
UNROLL(16)
      for (int h = 0; h < M; ++h) {
        const auto weight = Entry::template weight<K, L>(w + h);
UNROLL(8)
        for (int t = 0; t < NT; ++t) Entry::template add<K, L>(sums[u % U][h][t], weight, v[t]);
      }
    }
    values += E * H;
  }
  for (; E > 1 && e < count; ++e) {
    const float *from = x + at[e] * ld;
UNROLL(16)
    for (int h = 0; h < M; ++h)
UNROLL(8)
      for (int t = 0; t < NT; ++t) 
        Entry::template add<K, L>(sums[0][h][t], Entry::template weight<K, L>(values + h),
                                  load<L>(from + t * L));
    values += H;
  }
UNROLL(16)
  for (int h = 0; h < M; ++h)
UNROLL(8)
    for (int t = 0; t < NT; ++t) {
      Sum sum = sums[0][h][t];
UNROLL(8)
      for (int u = 1; u < U; ++u) sum += sums[u][h][t];
      store<L>(out + (h * NT + t) * L, reinterpret_cast<Floats<L>>(sum));
    }
}

// Sums of H = L * NV rows over T positions, the rows side by side.
template <typename K, typename Entry, int L, int NV, int T, int U>
INLINE void sum_rows(const int32_t *at, size_t count, const float *values, const float *x,
                     ptrdiff_t ld, float *out) {
  constexpr int H = L * NV;
  using Sum = typename Entry::template Sum<L>;
  Sum sums[U][T][NV];
UNROLL(8)
  for (int u = 0; u < U; ++u)
UNROLL(16)
    for (int t = 0; t < T; ++t)
UNROLL(4)
      for (int v = 0; v < NV; ++v) sums[u][t][v] = Sum{};
  size_t e = 0;
  for (; e + U <= count; e += U) {
UNROLL(8)
    for (int u = 0; u < U; ++u) {
      const float *from = x + at[e + u] * ld;
      if (T > 1 && u * H % 16 == 0) fetch(values + u * H);
      Floats<L> w[NV];
UNROLL(4)
      for (int v = 0; v < NV; ++v) w[v] = load<L>(values + u * H + v * L);
UNROLL(16)
      for (int t = 0; t < T; ++t)
UNROLL(4)
        for (int v = 0; v < NV; ++v) 
          Entry::template add<K, L>(sums[u][t][v], w[v], Entry::template weight<K, L>(from + t));
    }
    values += U * H;
  }
  for (; U > 1 && e < count; ++e) {
    const float *from = x + at[e] * ld;
UNROLL(16)
    for (int t = 0; t < T; ++t)
UNROLL(4)
      for (int v = 0; v < NV; ++v) 
        Entry::template add<K, L>(sums[0][t][v], load<L>(values + v * L),
                                  Entry::template weight<K, L>(from + t));
    values += H;
  }
UNROLL(16)
  for (int t = 0; t < T; ++t)
UNROLL(4)
    for (int v = 0; v < NV; ++v) {
      Sum sum = sums[0][t][v];
UNROLL(8)
      for (int u = 1; u < U; ++u) sum += sums[u][t][v];
      store<L>(out + t * GROUP + v * L, reinterpret_cast<Floats<L>>(sum));
    }
}

// Sums of one or two rows at one position: L numbers of several entries side by side.
template <typename K, typename Entry, int L, int H>
INLINE void sum_one(const int32_t *at, size_t count, const float *values, const float *x,
                    ptrdiff_t ld, float *out) {
  constexpr int U = 4, E = L / H;
  using Sum = typename Entry::template Sum<L>;
  Sum sums[U] = {};
  const auto add = [&](Sum &sum, const int32_t *next, const float *w) __attribute__((always_inline)) {
    Floats<L> met{};
UNROLL(4)
    for (int l = 0; l < L; ++l) met[l] = x[next[l / H] * ld];
    Entry::template add<K, L>(sum, load<L>(w), met);
  };
  size_t e = 0;
  for (; e + U * E <= count; e += U * E, values += U * L)
UNROLL(4)
    for (int u = 0; u < U; ++u) add(sums[u], at + e + u * E, values + u * L);
  for (; e + E <= count; e += E, values += L) add(sums[0], at + e, values);
  Sum sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  const size_t left = count - e;
  if (left) {
    float w[L] = {}, met[L] = {};
    for (size_t l = 0; l < left * H; ++l) w[l] = values[l], met[l] = x[at[e + l / H] * ld];
    Entry::template add<K, L>(sum, load<L>(w), load<L>(met));
  }
  for (int h = 0; h < H; ++h) {
    auto one = sum[h];
    for (int l = h + H; l < L; l += H) one += sum[l];
    std::memcpy(out + h, &one, sizeof one);
  }
}

// Moves a few numbers; a call of memcpy takes longer.
template <int L, typename Number>
INLINE void move_few(const Number *from, size_t n, Number *to) {
  size_t i = 0;
  for (; i + L <= n; i += L) write<L>(to + i, read<L>(from + i));
  if constexpr (L > 4) {
    if (n - i >= L / 2) {
      write<L / 2>(to + i, read<L / 2>(from + i));
      i += L / 2;
    }
  }
  for (; i < n; ++i) to[i] = from[i];
}

// Finishes a line of `n` sums, of which there is room for whole vectors; `bias` steps with
// the line or stays where it is. The last vector overlaps the one before, so what it needs
// is read first.
template <int L, typename Number>
INLINE void finish_line(const float *line, size_t n, const float *bias, bool steps,
                        const Number *residual, Activation activation, Number *to) {
  const auto sum = [&](size_t i) __attribute__((always_inline)) {
    return load<L>(line + i) + (steps ? load<L>(bias + i) : Floats<L>{} + *bias);
  };
  if (n < L) {
    Number rest[L] = {};
    if (residual) move_few<L>(residual, n, rest);
    Floats<L> v = sum(0);
    if (residual) v += read<L>(rest);
    write<L>(rest, activate<L>(v, activation));
    move_few<L>(rest, n, to);
    return;
  }
  const size_t last = n - L;
  Floats<L> end = sum(last);
  if (residual) end += read<L>(residual + last);
  for (size_t i = 0; i < n; i += L) {
    size_t at = last;
    Floats<L> v = end;
    if (i < last) {
      at = i;
      v = sum(i);
      if (residual) v += read<L>(residual + i);
    }
    write<L>(to + at, activate<L>(v, activation));
  }
}

// Finishes `rows` lines of `n` sums, at least L, that are written straight: what has zeros
// in `wanted` stays as it was. All vectors of a line are whole; the last has its begin from
// what is there already.
template <int L, Activation HOW, typename Number>
INLINE void finish_lines(const float *sums, size_t width, size_t rows, size_t n,
                         const float *bias, const int32_t *wanted, const Number *residual,
                         ptrdiff_t ldr, Number *to, ptrdiff_t ldy) {
  const size_t vectors = (n + L - 1) / L;
  Ints<L> masks[PANEL / L];
  size_t at[PANEL / L];
  for (size_t i = 0; i < vectors; ++i) {
    at[i] = std::min(i * L, n - L);
    Ints<L> mask = Ints<L>{} - 1;
    for (size_t l = 0; l < i * L - at[i]; ++l) mask[l] = 0;
    if (wanted) mask &= *reinterpret_cast<const Ints<L> *>(wanted + at[i]);
    masks[i] = mask;
  }
  const bool all = !wanted && n % L == 0;
  for (size_t r = 0; r < rows; ++r) {
    const Floats<L> add = Floats<L>{} + bias[r];
    for (size_t i = 0; i < vectors; ++i) {
      Floats<L> v = load<L>(sums + at[i]) + add;
      if (residual) v += read<L>(residual + at[i]);
      v = activate<L>(v, HOW);
      if (!all) v = masks[i] != 0 ? v : read<L>(to + at[i]);
      write<L>(to + at[i], v);
    }
    sums += width;
    to += ldy;
    if (residual) residual += ldr;
  }
}

template <int L, typename Number, typename... More>
INLINE void finish_lines(Activation how, More... more) {
  switch (how) {
    case Activation::relu:
      return finish_lines<L, Activation::relu, Number>(more...);
    case Activation::gelu:
      return finish_lines<L, Activation::gelu, Number>(more...);
    case Activation::silu:
      return finish_lines<L, Activation::silu, Number>(more...);
    default:
      return finish_lines<L, Activation::none, Number>(more...);
  }
}

// The numbers that sums of bytes stand for.
template <int L>
INLINE void scale_line(const float *line, size_t n, const uint32_t *excess, const float *scales,
                       float scale, float *to) {
  for (size_t i = 0; i < n; i += L) {
    const Ints<L> sum = reinterpret_cast<Ints<L>>(load<L>(line + i)) -
                        *reinterpret_cast<const Ints<L> *>(excess + i);
    const auto whole = __builtin_convertvector(reinterpret_cast<Signs<L>>(sum), Floats<L>);
    store<L>(to + i, whole * load<L>(scales + i) * scale);
  }
}

// Transposes L rows of `columns` numbers.
template <int L>
INLINE void turn_rows(const float *from, size_t stride, size_t columns, float *to,
                      size_t to_stride) {
  for (size_t j = 0; j < columns; j += L) {
    Floats<L> v[L];
UNROLL(16)
    for (int l = 0; l < L; ++l) v[l] = load<L>(from + l * stride + j);
    turn<L>(v);
UNROLL(16)
    for (int l = 0; l < L; ++l) store<L>(to + (j + l) * to_stride, v[l]);
  }
}

// Moves the positions of a line of a panel that lie on the grid; `other` is an image row
// after row.
template <typename Move>
INLINE void each_piece(const Grid &g, size_t positions, Move move) {
  size_t t = 0, row = g.first / g.pitch, column = g.first % g.pitch;
  while (t < positions && row < g.height) {
    const size_t left = std::min(g.pitch - column, positions - t);
    if (column < g.width) move(t, row, column, std::min(left, g.width - column));
    t += left;
    column = 0;
    ++row;
  }
}

// Finishes T positions of rows that stand side by side in `sums`, of which T numbers of each
// row are written.
template <int L, int T>
INLINE void finish_turned(const Weights &w, const Panel<float> &p, size_t row, size_t rows,
                          const float *sums) {
  alignas(64) float done[T * GROUP];
  const Activation before = p.residual ? Activation::none : w.activation;
UNROLL(1)
  for (int t = 0; t < T; ++t)
    finish_line<L>(sums + t * GROUP, rows, w.bias + row, true, static_cast<const float *>(nullptr),
                   before, done + t * GROUP);
  for (size_t r = 0; r < rows; r += T) {
    Floats<T> v[T];
UNROLL(8)
    for (int t = 0; t < T; ++t) v[t] = load<T>(done + t * GROUP + r);
    turn<T>(v);
UNROLL(8)
    for (int j = 0; j < T; ++j) {
      if (r + j >= rows) break;
      if (p.residual)
        v[j] = activate<T>(v[j] + load<T>(p.residual + ptrdiff_t(row + r + j) * p.ldr),
                           w.activation);
      store<T>(p.y + ptrdiff_t(row + r + j) * p.ldy, v[j]);
    }
  }
}

// Writes the sums of `rows` rows from `row` on, of which `sums` holds (GROUP, width), or
// (width, GROUP) if they are `turned`. Lines of GROUP numbers reach the memory whole, which
// matters where the strides of y let its lines share cache sets.
template <int L, typename Entry, typename Number = typename Entry::Number>
INLINE void finish(const Weights &w, const Panel<Number> &p, size_t row, size_t rows, const float *sums,
                   size_t width, bool turned) {
  const float *bias = w.bias + row;
  if (Entry::BYTES || p.order == Order::tokens) {
    alignas(64) float lines[L * GROUP], scaled[GROUP];
    for (size_t t = 0; t < p.positions; ++t) {
      if (!turned && t % L == 0)
        for (size_t r = 0; r < rows; r += L)
          turn_rows<L>(sums + r * width + t, width, L, lines + r, GROUP);
      const float *line = turned ? sums + t * GROUP : lines + t % L * GROUP;
      if constexpr (Entry::BYTES) {
        scale_line<L>(line, rows, w.excess + row, w.scales + row, p.scales[t], scaled);
        line = scaled;
      }
      finish_line<L>(line, rows, bias, true,
                     p.residual ? p.residual + ptrdiff_t(t) * p.ldr + row : nullptr,
                     w.activation, p.y + ptrdiff_t(t) * p.ldy + row);
    }
    return;
  }
  if constexpr (std::is_same_v<Number, float>)
    if (turned && p.order == Order::features && (p.positions == 4 || p.positions == 8))
      return p.positions == 4 ? finish_turned<L, 4>(w, p, row, rows, sums)
                              : finish_turned<L, 8>(w, p, row, rows, sums);
  alignas(64) float other[GROUP * PANEL];
  if (turned) {
    for (size_t t = 0; t < width; t += L)
      turn_rows<L>(sums + t * GROUP, GROUP, GROUP, other + t, width);
    sums = other;
  }
  const bool image = p.order == Order::image;
  const bool straight =
      !image || (p.row == ptrdiff_t(p.grid.pitch) && (!p.residual || p.residual_row == p.row) &&
                 (p.grid.wanted || p.grid.pitch == p.grid.width));
  if (straight && p.positions >= L) {
    const ptrdiff_t t = image ? ptrdiff_t(p.grid.first) : 0;
    return finish_lines<L, Number>(
        w.activation, sums, width, rows, p.positions, bias,
        image && p.grid.wanted ? p.grid.wanted + t : nullptr,
        p.residual ? p.residual + ptrdiff_t(row) * p.ldr + t : nullptr, p.ldr,
        p.y + ptrdiff_t(row) * p.ldy + t, p.ldy);
  }
  for (size_t r = 0; r < rows; ++r) {
    const float *line = sums + r * width;
    Number *y = p.y + ptrdiff_t(row + r) * p.ldy;
    const Number *residual = p.residual ? p.residual + ptrdiff_t(row + r) * p.ldr : nullptr;
    if (!image) {
      finish_line<L>(line, p.positions, bias + r, false, residual, w.activation, y);
      continue;
    }
    alignas(64) Number add[PANEL] = {}, done[PANEL];
    if (residual)
      each_piece(p.grid, p.positions, [&](size_t t, size_t i, size_t j, size_t n) {
        move_few<L>(residual + ptrdiff_t(i) * p.residual_row + j, n, add + t);
      });
    finish_line<L>(line, p.positions, bias + r, false, residual ? add : nullptr, w.activation,
                   done);
    each_piece(p.grid, p.positions, [&](size_t t, size_t i, size_t j, size_t n) {
      move_few<L>(done + t, n, y + ptrdiff_t(i) * p.row + j);
    });
  }
}

// The same with fewer lanes.
template <typename K, int V>
struct Narrow : K::Instructions {};

// K has the number of lanes, and what is compiled for them.
template <typename K, typename Entry, int H, int NT, typename Panel>
INLINE void slices_of(const Weights &w, const Panel &p, size_t first, size_t last) {
  constexpr int L = K::L, M = std::min(H, L < 16 ? 4 : NT > 1 ? 8 : 16);
  alignas(64) float sums[GROUP * NT * L];
  for (size_t from = first * SLICE; from < last * SLICE; from += GROUP) {
    const size_t rows = std::min({GROUP, last * SLICE - from, w.n_out - from});
    const size_t whole = rows / SLICE * SLICE;  // slices are turned as a whole
    if (whole < rows) std::fill_n(sums + whole * NT * L, SLICE * NT * L, 0.0f);
    for (size_t r = 0; r < rows; r += H) {
      const int64_t *start = w.starts + (from + r) / H;
      const int32_t *at = p.at + start[0];
      const size_t count = size_t(start[1] - start[0]);
      const float *values = w.values + size_t(start[0]) * H;
      sum_positions<K, Entry, L, H, M, NT, true>(at, count, values, p.x, p.ld, sums + r * NT * L);
      for (int m = M; m < H; m += M)
        sum_positions<K, Entry, L, H, M, NT, false>(at, count, values + m, p.x, p.ld,
                                          sums + (r + m) * NT * L);
    }
    K::template finish<Entry>(w, p, from, rows, sums, NT * L, false);
  }
}

template <typename K, typename Entry, int H, int T, typename Panel>
INLINE void slices_few(const Weights &w, const Panel &p, size_t first, size_t last) {
  constexpr int L = K::L, V = std::min(L, H), NV = H / V, U = std::max(1, 8 / (T * NV));
  constexpr size_t WIDTH = std::max(T, L);
  alignas(64) float sums[GROUP * WIDTH] = {};
  for (size_t from = first * SLICE; from < last * SLICE; from += GROUP) {
    const size_t rows = std::min({GROUP, last * SLICE - from, w.n_out - from});
    for (size_t r = 0; r < rows; r += H) {
      const int64_t *start = w.starts + (from + r) / H;
      const int32_t *at = p.at + start[0];
      const size_t count = size_t(start[1] - start[0]);
      const float *values = w.values + size_t(start[0]) * H;
      if constexpr (H >= 4)
        sum_rows<Narrow<K, V>, Entry, V, NV, T, U>(at, count, values, p.x, p.ld, sums + r);
      else
        sum_one<Narrow<K, 4>, Entry, 4, H>(at, count, values, p.x, p.ld, sums + r);
    }
    K::template finish<Entry>(w, p, from, rows, sums, WIDTH, true);
  }
}

template <typename K, typename Entry, int H, typename Panel>
INLINE void slices_one_by_one(const Weights &w, const Panel &p, size_t first, size_t last) {
  if constexpr (H < 4)
    slices_few<K, Entry, H, 1>(w, p, first, last);
  else if (p.positions == 1)
    slices_few<K, Entry, H, 1>(w, p, first, last);
  else if (p.positions == 2)
    slices_few<K, Entry, H, 2>(w, p, first, last);
  else if (p.positions <= 4)
    slices_few<K, Entry, H, 4>(w, p, first, last);
  else
    slices_few<K, Entry, H, 8>(w, p, first, last);
}

template <typename K, typename Entry, int H, typename Panel>
INLINE void slices_high(const Weights &w, const Panel &p, size_t first, size_t last) {
  if (p.few) return K::template one_by_one<Entry, H>(w, p, first, last);
  switch ((p.positions + K::L - 1) / K::L) {
    case 1:
      return slices_of<K, Entry, H, 1>(w, p, first, last);
    case 2:
      return slices_of<K, Entry, H, 2>(w, p, first, last);
    case 3:
      return slices_of<K, Entry, H, 3>(w, p, first, last);
    default:
      if constexpr (H <= 4) return slices_of<K, Entry, H, 4>(w, p, first, last);
  }
}

template <typename K, typename Entry, typename Panel>
INLINE void slices(const Weights &w, const Panel &p, size_t first, size_t last) {
  switch (w.height) {
    case 1:
      return K::template high<Entry, 1>(w, p, first, last);
    case 2:
      return K::template high<Entry, 2>(w, p, first, last);
    case 4:
      return K::template high<Entry, 4>(w, p, first, last);
    case 8:
      return K::template high<Entry, 8>(w, p, first, last);
    default:
      return K::template high<Entry, 16>(w, p, first, last);
  }
}

// Words [k, k + wide) of a token, which reach the strip as they are.
struct Copied {
  const float *x;
  ptrdiff_t ldx;

  template <int L>
  INLINE void strip(size_t t, size_t k, size_t wide, float *to) const {
    const float *from = x + ptrdiff_t(t) * ldx + k;
    if (wide < STRIP)
      std::memcpy(to, from, wide * sizeof(float));
    else
UNROLL(16)
      for (size_t i = 0; i < STRIP; i += L) store<L>(to + i, load<L>(from + i));
  }
};

// The same of tokens that are rounded to bfloat16. What lies behind n_in becomes zero, though
// it meets only weights that are zero.
struct Halved {
  const float *x;
  ptrdiff_t ldx;
  size_t n_in;

  template <int L>
  INLINE void strip(size_t t, size_t k, size_t wide, float *words) const {
    const float *from = x + ptrdiff_t(t) * ldx + 2 * k;
    uint16_t *to = reinterpret_cast<uint16_t *>(words);
    const size_t there = std::min(2 * wide, n_in - 2 * k);
    size_t i = 0;
    for (; i + L <= there; i += L) write<L>(to + i, load<L>(from + i));
    if (i < there) {
      float rest[L] = {};
      uint16_t done[L];
      std::memcpy(rest, from + i, (there - i) * sizeof(float));
      write<L>(done, load<L>(rest));
      std::memcpy(to + i, done, (2 * wide - i) * sizeof(uint16_t));
    }
  }
};

// Likewise of tokens that are rounded to bytes.
struct Rounded {
  const float *x;
  ptrdiff_t ldx;
  size_t n_in;
  const float *inverses;

  // Four vectors at once.
  template <int L>
  static INLINE void bytes(const float *from, float inverse, uint8_t *to) {
    using Shorts = typename Of<L>::shorts;
    using Bytes = typename Of<L>::bytes;
    Ints<L> whole[4];
UNROLL(4)
    for (int u = 0; u < 4; ++u) {
      Floats<L> scaled = load<L>(from + u * L) * inverse;
      SEPARATE(scaled);
      // Adding so much rounds to a whole number, of which the last byte is wanted.
      whole[u] = reinterpret_cast<Ints<L>>(scaled + 12582912.0f);
    }
    constexpr auto all = std::make_index_sequence<2 * L>();
    const auto shorts = [&](int u) __attribute__((always_inline)) {
      return reinterpret_cast<Bytes>(evens(reinterpret_cast<Shorts>(whole[u]),
                                           reinterpret_cast<Shorts>(whole[u + 1]), all));
    };
    constexpr auto both = std::make_index_sequence<4 * L>();
    *reinterpret_cast<Bytes *>(to) = evens(shorts(0), shorts(2), both) ^ 0x80;
  }

  template <int L>
  INLINE void strip(size_t t, size_t k, size_t wide, float *words) const {
    const float *from = x + ptrdiff_t(t) * ldx + 4 * k, inverse = inverses[t];
    uint8_t *to = reinterpret_cast<uint8_t *>(words);
    const size_t there = std::min(4 * wide, n_in - 4 * k);
    size_t i = 0;
    for (; i + 4 * L <= there; i += 4 * L) bytes<L>(from + i, inverse, to + i);
    if (i < there) {
      float rest[4 * L] = {};
      uint8_t done[4 * L];
      std::memcpy(rest, from + i, (there - i) * sizeof(float));
      bytes<L>(rest, inverse, done);
      std::memcpy(to + i, done, 4 * wide - i);
    }
  }
};

// The scale of a token: its largest number over 127, but not so small that the inverse is
// infinite. Numbers are compared as the whole numbers that they are, of which NaN is largest.
template <int L>
INLINE void measure(const float *x, ptrdiff_t ldx, size_t tokens, size_t n_in, float *scales,
                    float *inverses) {
  constexpr int U = 4;
  constexpr float LEAST = 127 * 1.17549435e-38f;
  constexpr uint32_t INFINITE = 0x7F800000;
  for (size_t t = 0; t < tokens; ++t, x += ldx) {
    Signs<L> found[U] = {};
    const auto meet = [](Signs<L> &most, Signs<L> next) __attribute__((always_inline)) {
      most = most < next ? next : most;
    };
    const auto size = [](const float *from) __attribute__((always_inline)) {
      return reinterpret_cast<Signs<L>>(load<L>(from)) & 0x7FFFFFFF;
    };
    size_t i = 0;
    for (; i + U * L <= n_in; i += U * L)
UNROLL(4)
      for (int u = 0; u < U; ++u) meet(found[u], size(x + i + u * L));
    for (; i + L <= n_in; i += L) meet(found[0], size(x + i));
    float rest[L] = {};
    if (i < n_in) std::memcpy(rest, x + i, (n_in - i) * sizeof(float));
    meet(found[1], size(rest));
    for (int u = 1; u < U; ++u) meet(found[0], found[u]);
    uint32_t bits = 0;
    for (int l = 0; l < L; ++l) bits = std::max(bits, uint32_t(found[0][l]));
    float most;
    std::memcpy(&most, &bits, sizeof most);
    most = std::max(most, LEAST);
    scales[t] = bits < INFINITE ? most / 127 : std::numeric_limits<float>::quiet_NaN();
    inverses[t] = bits < INFINITE ? 127 / most : 0.0f;
  }
}

template <int L, typename Source>
INLINE void pack_lanes(const Source &source, size_t tokens, size_t first, size_t last,
                       float *panel, size_t width) {
  // A strip of each token is read at once: lines of x that share a cache set are not kept.
  alignas(64) float strip[L * STRIP];
  for (size_t k = first; k < last; k += STRIP) {
    const size_t wide = std::min(STRIP, last - k), whole = wide / L * L;
    for (size_t t = 0; t < width; t += L) {
      for (size_t l = 0; l < L; ++l) {
        float *to = strip + l * STRIP;
        if (t + l >= tokens)
          std::memset(to, 0, STRIP * sizeof(float));
        else
          source.template strip<L>(t + l, k, wide, to);
      }
      turn_rows<L>(strip, STRIP, whole, panel + k * width + t, width);
      for (size_t j = whole; j < wide; ++j)
        for (size_t l = 0; l < L; ++l) panel[(k + j) * width + t + l] = strip[l * STRIP + j];
    }
  }
}

// One token is a panel as it is.
template <int L, typename Source>
INLINE void pack_tokens(const Source &source, size_t tokens, size_t first, size_t last,
                        float *panel, size_t width) {
  if (width == 1) return source.template strip<L>(0, first, last - first, panel + first);
  if (width >= L) return pack_lanes<L>(source, tokens, first, last, panel, width);
  if (width == 8) return pack_lanes<8>(source, tokens, first, last, panel, width);
  pack_lanes<4>(source, tokens, first, last, panel, width);
}

template <int L>
INLINE void pack_features(const float *x, ptrdiff_t ldx, size_t tokens, size_t first,
                          size_t last, float *panel, size_t width) {
  const size_t whole = tokens / L * L;
  for (size_t k = first; k < last; ++k) {
    const float *from = x + ptrdiff_t(k) * ldx;
    float *to = panel + k * width;
    for (size_t t = 0; t < whole; t += L) store<L>(to + t, load<L>(from + t));
    for (size_t t = whole; t < width; ++t) to[t] = t < tokens ? from[t] : 0.0f;
  }
}

// The sum of two lines, or one, neither of which need have room for a whole vector.
template <int L>
INLINE void add_lines(const float *a, const float *b, size_t n, Activation activation,
                      float *to) {
  const float none = 0.0f;
  float rest[L] = {};
  if (n < L) {
    move_few<L>(a, n, rest);
    a = rest;
  }
  finish_line<L>(a, n, &none, false, b, activation, to);
}

template <int L>
INLINE void unpack_tokens(const float *panel, size_t width, size_t features, size_t positions,
                          float *y, ptrdiff_t ldy) {
  const size_t whole = width % L ? 0 : features / L * L;
  for (size_t t = 0; t < positions; t += L)
    for (size_t k = 0; k < whole; k += L) {
      Floats<L> v[L];
UNROLL(16)
      for (int l = 0; l < L; ++l) v[l] = load<L>(panel + (k + l) * width + t);
      turn<L>(v);
      float *to = y + ptrdiff_t(t) * ldy + k;
      for (size_t l = 0; l < std::min<size_t>(L, positions - t); ++l)
        store<L>(to + ptrdiff_t(l) * ldy, v[l]);
    }
  for (size_t t = 0; t < positions; ++t)
    for (size_t k = whole; k < features; ++k) y[ptrdiff_t(t) * ldy + k] = panel[k * width + t];
}

}  // namespace
}  // namespace blocksparse
