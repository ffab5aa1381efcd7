// The loops of block-sparse products for vectors of L floats, written once for all
// instruction sets; everything here is inlined into functions compiled for one of them.
#pragma once

#include <algorithm>
#include <cstring>
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

namespace blocksparse {
namespace {

template <int L>
struct Of {
  typedef float floats __attribute__((vector_size(L * 4), aligned(4), may_alias));
  typedef uint32_t ints __attribute__((vector_size(L * 4), aligned(4), may_alias));
  typedef uint16_t halves __attribute__((vector_size(L * 2), aligned(2), may_alias));
};
typedef uint32_t Word __attribute__((may_alias));
template <int L>
using Floats = typename Of<L>::floats;
template <int L>
using Ints = typename Of<L>::ints;
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

// What meets in one entry: numbers, or pairs of bfloat16.
struct Single {
  template <typename K, int L>
  static INLINE float weight(const float *w) {
    return *w;
  }
  template <typename K, int L, typename A, typename B>
  static INLINE void add(Floats<L> &sum, A w, B x) {
    sum += w * x;
  }
};

struct Pair {
  template <typename K, int L>
  static INLINE Floats<L> weight(const float *w) {
    return reinterpret_cast<Floats<L>>(Ints<L>{} + *reinterpret_cast<const Word *>(w));
  }
  template <typename K, int L>
  static INLINE void add(Floats<L> &sum, Floats<L> w, Floats<L> x) {
    if constexpr (K::DOT) {
      K::dot(sum, w, x);
    } else {
      const Ints<L> a = reinterpret_cast<Ints<L>>(w), b = reinterpret_cast<Ints<L>>(x);
      sum += reinterpret_cast<Floats<L>>(a << 16) * reinterpret_cast<Floats<L>>(b << 16);
      sum += reinterpret_cast<Floats<L>>(a & 0xFFFF0000u) *
             reinterpret_cast<Floats<L>>(b & 0xFFFF0000u);
    }
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
  Floats<L> sums[U][M][NT];
UNROLL(8)
  for (int u = 0; u < U; ++u)
UNROLL(16)
    for (int h = 0; h < M; ++h)
UNROLL(8)
      for (int t = 0; t < NT; ++t) sums[u][h][t] = Floats<L>{};
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
      Floats<L> sum = sums[0][h][t];
UNROLL(8)
      for (int u = 1; u < U; ++u) sum += sums[u][h][t];
      store<L>(out + (h * NT + t) * L, sum);
    }
}

// Sums of H = L * NV rows over T positions, the rows side by side.
template <typename K, typename Entry, int L, int NV, int T, int U>
INLINE void sum_rows(const int32_t *at, size_t count, const float *values, const float *x,
                     ptrdiff_t ld, float *out) {
  constexpr int H = L * NV;
  Floats<L> sums[U][T][NV];
UNROLL(8)
  for (int u = 0; u < U; ++u)
UNROLL(16)
    for (int t = 0; t < T; ++t)
UNROLL(4)
      for (int v = 0; v < NV; ++v) sums[u][t][v] = Floats<L>{};
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
      Floats<L> sum = sums[0][t][v];
UNROLL(8)
      for (int u = 1; u < U; ++u) sum += sums[u][t][v];
      store<L>(out + t * GROUP + v * L, sum);
    }
}

INLINE void add_one(float &sum, const float *w, const float *x, Single) { sum += *w * *x; }
INLINE void add_one(float &sum, const float *w, const float *x, Pair) {
  const Word a = *reinterpret_cast<const Word *>(w), b = *reinterpret_cast<const Word *>(x);
  const Word parts[4] = {a << 16, b << 16, a & 0xFFFF0000u, b & 0xFFFF0000u};
  float f[4];
  std::memcpy(f, parts, sizeof f);
  sum += f[0] * f[1] + f[2] * f[3];
}

// Sums of one or two rows at one position: nothing to do side by side.
template <typename Entry, int H>
INLINE void sum_one(const int32_t *at, size_t count, const float *values, const float *x,
                    ptrdiff_t ld, float *out) {
  constexpr int U = 8;
  float sums[U][H] = {};
  size_t e = 0;
  for (; e + U <= count; e += U) {
UNROLL(8)
    for (int u = 0; u < U; ++u)
UNROLL(2)
      for (int h = 0; h < H; ++h) 
        add_one(sums[u][h], values + u * H + h, x + at[e + u] * ld, Entry{});
    values += U * H;
  }
  for (; e < count; ++e, values += H)
    for (int h = 0; h < H; ++h) add_one(sums[0][h], values + h, x + at[e] * ld, Entry{});
  for (int h = 0; h < H; ++h) {
    float sum = sums[0][h];
    for (int u = 1; u < U; ++u) sum += sums[u][h];
    out[h] = sum;
  }
}

// Finishes a line of `n` sums, of which there is room for whole vectors; `bias` steps with
// the line or stays where it is.
template <int L, typename Number>
INLINE void finish_line(const float *line, size_t n, const float *bias, bool steps,
                        const Number *residual, Activation activation, Number *to) {
  size_t i = 0;
  for (; i + L <= n; i += L) {
    Floats<L> v = load<L>(line + i) + (steps ? load<L>(bias + i) : Floats<L>{} + *bias);
    if (residual) v += read<L>(residual + i);
    write<L>(to + i, activate<L>(v, activation));
  }
  if (i < n) {
    Number rest[L] = {};
    if (residual) std::memcpy(rest, residual + i, (n - i) * sizeof(Number));
    Floats<L> v = load<L>(line + i) + (steps ? load<L>(bias + i) : Floats<L>{} + *bias);
    if (residual) v += read<L>(rest);
    write<L>(rest, activate<L>(v, activation));
    std::memcpy(to + i, rest, (n - i) * sizeof(Number));
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

// Writes the sums of `rows` rows from `row` on, of which `sums` holds (GROUP, width), or
// (width, GROUP) if they are `turned`. Lines of GROUP numbers reach the memory whole, which
// matters where the strides of y let its lines share cache sets.
template <int L, typename Number>
INLINE void finish(const Weights &w, const Panel<Number> &p, size_t row, size_t rows, const float *sums,
                   size_t width, bool turned) {
  const float *bias = w.bias + row;
  if (p.order == Order::tokens) {
    alignas(64) float lines[L * GROUP];
    for (size_t t = 0; t < p.positions; ++t) {
      if (!turned && t % L == 0)
        for (size_t r = 0; r < rows; r += L)
          turn_rows<L>(sums + r * width + t, width, L, lines + r, GROUP);
      finish_line<L>(turned ? sums + t * GROUP : lines + t % L * GROUP, rows, bias, true,
                     p.residual ? p.residual + ptrdiff_t(t) * p.ldr + row : nullptr,
                     w.activation, p.y + ptrdiff_t(t) * p.ldy + row);
    }
    return;
  }
  alignas(64) float other[GROUP * PANEL];
  if (turned) {
    for (size_t t = 0; t < width; t += L)
      turn_rows<L>(sums + t * GROUP, GROUP, GROUP, other + t, width);
    sums = other;
  }
  for (size_t r = 0; r < rows; ++r) {
    const float *line = sums + r * width;
    Number *y = p.y + ptrdiff_t(row + r) * p.ldy;
    const Number *residual = p.residual ? p.residual + ptrdiff_t(row + r) * p.ldr : nullptr;
    if (p.order == Order::features) {
      finish_line<L>(line, p.positions, bias + r, false, residual, w.activation, y);
      continue;
    }
    alignas(64) Number add[PANEL] = {}, done[PANEL];
    if (residual)
      each_piece(p.grid, p.positions, [&](size_t t, size_t i, size_t j, size_t n) {
        std::memcpy(add + t, residual + ptrdiff_t(i) * p.residual_row + j, n * sizeof(Number));
      });
    finish_line<L>(line, p.positions, bias + r, false, residual ? add : nullptr, w.activation,
                   done);
    each_piece(p.grid, p.positions, [&](size_t t, size_t i, size_t j, size_t n) {
      std::memcpy(y + ptrdiff_t(i) * p.row + j, done + t, n * sizeof(Number));
    });
  }
}

// The same with fewer lanes.
template <typename K, int V>
struct Narrow {
  static constexpr bool DOT = K::DOT;
  static INLINE void dot(Floats<V> &sum, Floats<V> w, Floats<V> x) {
    if constexpr (DOT) K::dot(sum, w, x);
  }
};

// K has the number of lanes, and what is compiled for them.
template <typename K, typename Number, int H, int NT>
INLINE void slices_of(const Weights &w, const Panel<Number> &p, size_t first, size_t last) {
  constexpr int L = K::L, M = std::min(H, L < 16 ? 4 : NT > 1 ? 8 : 16);
  using Entry = std::conditional_t<std::is_same_v<Number, float>, Single, Pair>;
  alignas(64) float sums[GROUP * NT * L] = {};
  for (size_t from = first * SLICE; from < last * SLICE; from += GROUP) {
    const size_t rows = std::min({GROUP, last * SLICE - from, w.n_out - from});
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
    K::finish(w, p, from, rows, sums, NT * L, false);
  }
}

template <typename K, typename Number, int H, int T>
INLINE void slices_few(const Weights &w, const Panel<Number> &p, size_t first, size_t last) {
  constexpr int L = K::L, V = std::min(L, H), NV = H / V, U = std::max(1, 8 / (T * NV));
  constexpr size_t WIDTH = std::max(T, L);
  using Entry = std::conditional_t<std::is_same_v<Number, float>, Single, Pair>;
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
        sum_one<Entry, H>(at, count, values, p.x, p.ld, sums + r);
    }
    K::finish(w, p, from, rows, sums, WIDTH, true);
  }
}

template <typename K, typename Number, int H>
INLINE void slices_high(const Weights &w, const Panel<Number> &p, size_t first, size_t last) {
  if (p.few) {
    if constexpr (H < 4)
      slices_few<K, Number, H, 1>(w, p, first, last);
    else if (p.positions == 1)
      slices_few<K, Number, H, 1>(w, p, first, last);
    else if (p.positions == 2)
      slices_few<K, Number, H, 2>(w, p, first, last);
    else if (p.positions <= 4)
      slices_few<K, Number, H, 4>(w, p, first, last);
    else
      slices_few<K, Number, H, 8>(w, p, first, last);
    return;
  }
  switch ((p.positions + K::L - 1) / K::L) {
    case 1:
      return slices_of<K, Number, H, 1>(w, p, first, last);
    case 2:
      return slices_of<K, Number, H, 2>(w, p, first, last);
    case 3:
      return slices_of<K, Number, H, 3>(w, p, first, last);
    default:
      if constexpr (H <= 4) return slices_of<K, Number, H, 4>(w, p, first, last);
  }
}

template <typename K, typename Number>
INLINE void slices(const Weights &w, const Panel<Number> &p, size_t first, size_t last) {
  switch (w.height) {
    case 1:
      return slices_high<K, Number, 1>(w, p, first, last);
    case 2:
      return slices_high<K, Number, 2>(w, p, first, last);
    case 4:
      return slices_high<K, Number, 4>(w, p, first, last);
    case 8:
      return slices_high<K, Number, 8>(w, p, first, last);
    default:
      return slices_high<K, Number, 16>(w, p, first, last);
  }
}

template <int L>
INLINE void pack_lanes(const float *x, ptrdiff_t ldx, size_t tokens, size_t first, size_t last,
                       float *panel, size_t width) {
  // A strip of each token is read at once: lines of x that share a cache set are not kept.
  alignas(64) float strip[L * STRIP];
  for (size_t k = first; k < last; k += STRIP) {
    const size_t wide = std::min(STRIP, last - k), whole = wide / L * L;
    for (size_t t = 0; t < width; t += L) {
      for (size_t l = 0; l < L; ++l) {
        const float *from = x + ptrdiff_t(t + l) * ldx + k;
        float *to = strip + l * STRIP;
        if (t + l >= tokens)
          std::memset(to, 0, STRIP * sizeof(float));
        else if (wide < STRIP)
          std::memcpy(to, from, wide * sizeof(float));
        else
UNROLL(16)
          for (size_t i = 0; i < STRIP; i += L) store<L>(to + i, load<L>(from + i));
      }
      turn_rows<L>(strip, STRIP, whole, panel + k * width + t, width);
      for (size_t j = whole; j < wide; ++j)
        for (size_t l = 0; l < L; ++l) panel[(k + j) * width + t + l] = strip[l * STRIP + j];
    }
  }
}

template <int L>
INLINE void pack_tokens(const float *x, ptrdiff_t ldx, size_t tokens, size_t first, size_t last,
                        float *panel, size_t width) {
  if (width >= L) return pack_lanes<L>(x, ldx, tokens, first, last, panel, width);
  if (width == 8) return pack_lanes<8>(x, ldx, tokens, first, last, panel, width);
  pack_lanes<4>(x, ldx, tokens, first, last, panel, width);
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

}  // namespace
}  // namespace blocksparse
