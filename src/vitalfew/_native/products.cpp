// Products of a few columns with many: the pass over X that everything else waits for.
//
// A matrix library packs X before it multiplies, which for a few dozen columns costs as
// much as the products. Here tiles of 8 x 24 sums stay in registers while X streams by
// from where it lies, and a strip of it stays in the second-level cache until all
// columns have met it.
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <optional>
#include <system_error>
#include <thread>

#include "common.hpp"

namespace {

constexpr size_t HEIGHT = 256;  // rows worked on at a time
constexpr size_t AHEAD = 16;    // rows fetched before they are needed

template <typename T, int BYTES>
struct Lanes {
  typedef T type __attribute__((vector_size(BYTES), aligned(alignof(T)), may_alias));
};

// Sums of squares of the columns of X around `center`, and of their entries.
template <typename T>
struct Sums {
  const T *center;
  T *squares, *left;
};

// C += A^T X for MR packed columns of A and NV vectors of columns of X; the first pass
// over a strip fetches it and may add up its squares on the way.
template <typename T, int BYTES, int MR, int NV, bool FIRST, bool SUMS>
INLINE void tile(const T *A, const T *X, size_t stride, size_t n, T *C, size_t ldc, size_t used,
                 const T *w, Sums<T> sums_of) {
  typedef typename Lanes<T, BYTES>::type V;
  constexpr size_t L = BYTES / sizeof(T);
  V sums[MR][NV], squares[NV], left[NV], center[NV];
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < NV; ++v) sums[m][v] = V{};
  if (SUMS)
    for (int v = 0; v < NV; ++v) {
      squares[v] = left[v] = V{};
      center[v] = *reinterpret_cast<const V *>(sums_of.center + v * L);
    }
  for (size_t i = 0; i < n; ++i) {
    if (FIRST) {
      const uintptr_t later = reinterpret_cast<uintptr_t>(X) + AHEAD * stride * sizeof(T);
      for (size_t b = 0; b < NV * BYTES; b += 64)
        __builtin_prefetch(reinterpret_cast<const void *>(later + b));
    }
    V x[NV];
    for (int v = 0; v < NV; ++v) x[v] = *reinterpret_cast<const V *>(X + v * L);
    for (int m = 0; m < MR; ++m)
      for (int v = 0; v < NV; ++v) sums[m][v] += A[m] * x[v];
    if (SUMS)
      for (int v = 0; v < NV; ++v) {
        const V d = x[v] - center[v], scaled = w[i] * d;
        left[v] += scaled;
        squares[v] += scaled * d;
      }
    A += MR;
    X += stride;
  }
  for (size_t m = 0; m < used; ++m)
    for (int v = 0; v < NV; ++v) *reinterpret_cast<V *>(C + m * ldc + v * L) += sums[m][v];
  if (SUMS)
    for (int v = 0; v < NV; ++v) {
      *reinterpret_cast<V *>(sums_of.squares + v * L) += squares[v];
      *reinterpret_cast<V *>(sums_of.left + v * L) += left[v];
    }
}

template <typename T>
struct Task {
  const T *A;  // (n, k)
  const T *w;  // (n,)
  const T *X;  // (n, p), rows `stride` apart
  T *C;        // (k, p)
  size_t n, k, p, stride;
  bool symmetric;  // X is A: only tiles on and above the diagonal
  Sums<T> sums;    // wanted too unless `squares` is null; room for a strip past the end
};

// Strips `first`, `first + step`, ... of the columns of X.
template <typename T, int BYTES, int MR, int NV>
INLINE void strips(const Task<T> &t, size_t first, size_t step) {
  constexpr size_t NR = NV * BYTES / sizeof(T);
  const size_t blocks = (t.k + MR - 1) / MR, most = std::min(t.n, HEIGHT);
  std::vector<T> packed(blocks * MR * most), edge(most * NR), corner(MR * NR);
  for (size_t from = 0; from < t.n; from += HEIGHT) {
    const size_t h = std::min(HEIGHT, t.n - from);
    for (size_t i = 0; i < h; ++i) {
      const T weight = t.w[from + i], *a = t.A + (from + i) * t.k;
      for (size_t c = 0; c < blocks * MR; ++c)
        packed[((c / MR) * h + i) * MR + c % MR] = c < t.k ? weight * a[c] : T(0);
    }
    for (size_t j = first * NR; j < t.p; j += step * NR) {
      const T *X = t.X + from * t.stride + j;
      size_t stride = t.stride;
      const bool whole = j + NR <= t.p;
      if (!whole) {
        std::fill(edge.begin(), edge.end(), T(0));
        for (size_t i = 0; i < h; ++i) std::copy_n(X + i * stride, t.p - j, &edge[i * NR]);
        X = edge.data();
        stride = NR;
      }
      for (size_t b = 0; b < blocks; ++b) {
        if (t.symmetric && b * MR >= j + NR) break;
        const T *A = &packed[b * h * MR];
        T *C = t.C + b * MR * t.p + j;
        const size_t used = std::min(size_t(MR), t.k - b * MR);
        const bool adds = b == 0 && t.sums.squares;
        Sums<T> sums = t.sums;
        if (adds) sums = {sums.center + j, sums.squares + j, sums.left + j};
        const T *w = t.w + from;
        if (!whole) {
          std::fill(corner.begin(), corner.end(), T(0));
          if (adds)
            tile<T, BYTES, MR, NV, false, true>(A, X, stride, h, corner.data(), NR, used, w, sums);
          else
            tile<T, BYTES, MR, NV, false, false>(A, X, stride, h, corner.data(), NR, used, w, sums);
          for (size_t m = 0; m < used; ++m)
            for (size_t l = 0; l < t.p - j; ++l) C[m * t.p + l] += corner[m * NR + l];
        } else if (adds) {
          tile<T, BYTES, MR, NV, true, true>(A, X, stride, h, C, t.p, used, w, sums);
        } else if (b == 0) {
          tile<T, BYTES, MR, NV, true, false>(A, X, stride, h, C, t.p, used, w, sums);
        } else {
          tile<T, BYTES, MR, NV, false, false>(A, X, stride, h, C, t.p, used, w, sums);
        }
      }
    }
  }
}

#if HAS_CLONES
#define WIDE __attribute__((target("arch=x86-64-v4")))
WIDE void wide_strips(const Task<double> &t, size_t first, size_t step) {
  strips<double, 64, 8, 3>(t, first, step);
}
WIDE void wide_strips(const Task<float> &t, size_t first, size_t step) {
  strips<float, 64, 8, 3>(t, first, step);
}
bool is_wide() { return __builtin_cpu_supports("x86-64-v4"); }
#else
template <typename T>
void wide_strips(const Task<T> &t, size_t first, size_t step) {
  strips<T, 32, 4, 3>(t, first, step);
}
bool is_wide() { return false; }
#endif

template <typename T>
void run(const Task<T> &t, size_t threads) {
  const auto part = [&t](size_t first, size_t step) {
    if (HAS_CLONES && !is_wide())
      strips<T, 32, 4, 3>(t, first, step);
    else
      wide_strips(t, first, step);
  };
  std::vector<std::thread> others;
  others.reserve(threads);
  size_t here = 1;  // shares of this thread, when the system gives no more threads
  try {
    for (size_t i = threads; i-- > 1;) others.emplace_back(part, i, threads);
  } catch (const std::system_error &) {
    here = threads - others.size();
  }
  for (size_t i = 0; i < here; ++i) part(i, threads);
  for (auto &other : others) other.join();
}

size_t sensible(size_t threads, size_t work) {
  // a thread takes some 20 microseconds to start, in which 10^6 products are done
  return std::max<size_t>(1, std::min<size_t>({threads, 64, work / 4'000'000}));
}

template <typename T>
void require_rows(const Rows<T> &X) {
  if (!X.size()) return;  // strides of nothing mean nothing
  require(X.stride(1) == 1 || X.shape(1) == 1, "the rows of X must lie in one piece each");
  require(X.stride(0) >= 0 || X.shape(0) == 1, "the rows of X must follow one another");
}

constexpr size_t EDGE = 64;  // more than the columns of a tile

template <typename T>
nb::object products(Matrix<T> A, Vector<T> w, Rows<T> X, size_t threads,
                    std::optional<Vector<T>> center) {
  const size_t n = A.shape(0), k = A.shape(1), p = X.shape(1);
  require(!center || center->shape(0) == p, "center must have an entry for each column of X");
  require(w.shape(0) == n && X.shape(0) == n, "w and X must have a row for each row of A");
  require_rows(X);
  std::vector<T> C(area(k, p)), middle, squares, left;
  Sums<T> sums{nullptr, nullptr, nullptr};
  if (center) {
    require(k > 0, "A must have a column where sums are wanted");
    middle.assign(center->data(), center->data() + p);
    for (auto *v : {&middle, &squares, &left}) v->resize(p + EDGE);
    sums = Sums<T>{middle.data(), squares.data(), left.data()};
  }
  if (k && p && n) {
    nb::gil_scoped_release release;
    run(Task<T>{A.data(), w.data(), X.data(), C.data(), n, k, p, size_t(X.stride(0)), false, sums},
        sensible(threads, n * k * p));
  }
  if (!center) return nb::cast(owned(std::move(C), {k, p}));
  squares.resize(p);
  left.resize(p);
  return nb::make_tuple(owned(std::move(C), {k, p}), owned(std::move(squares)),
                        owned(std::move(left)));
}

template <typename T>
nb::ndarray<nb::numpy, T> gram(Matrix<T> A, Vector<T> w, size_t threads) {
  const size_t n = A.shape(0), k = A.shape(1);
  require(w.shape(0) == n, "w must have an entry for each row of A");
  std::vector<T> C(area(k, k));
  if (k && n) {
    nb::gil_scoped_release release;
    run(Task<T>{A.data(), w.data(), A.data(), C.data(), n, k, k, k, true,
                {nullptr, nullptr, nullptr}},
        sensible(threads, n * k * k));
    for (size_t i = 0; i < k; ++i)
      for (size_t j = 0; j < i; ++j) C[i * k + j] = C[j * k + i];
  }
  return owned(std::move(C), {k, k});
}

constexpr size_t RUN = 64;  // rows of a group gathered side by side

template <typename T>
INLINE T dot(const T *a, const T *b) {
  T sums[16] = {};
  for (size_t i = 0; i < RUN; i += 16)
    for (size_t l = 0; l < 16; ++l) sums[l] += a[i + l] * b[i + l];
  T total = 0;
  for (size_t l = 0; l < 16; ++l) total += sums[l];
  return total;
}

// Adds the products within each group over at most RUN rows.
template <typename T>
INLINE void block_rows(const T *X, size_t stride, size_t h, const T *w, const T *center,
                       const int64_t *table, size_t N, size_t m, T *side, T *weighted, T *out) {
  for (size_t g = 0; g < N; ++g) {
    const int64_t *ids = table + g * m;
    size_t size = 0;
    for (; size < m && ids[size] >= 0; ++size) {
      const T *x = X + ids[size];
      const T middle = center ? center[ids[size]] : T(0);
      T *to = side + size * RUN, *scaled = weighted + size * RUN;
      for (size_t i = 0; i < h; ++i) to[i] = x[i * stride] - middle;
      for (size_t i = h; i < RUN; ++i) to[i] = 0;
      for (size_t i = 0; i < RUN; ++i) scaled[i] = i < h ? w[i] * to[i] : T(0);
    }
    T *block = out + g * m * m;
    for (size_t a = 0; a < size; ++a)
      for (size_t b = a; b < size; ++b)
        block[a * m + b] += dot(weighted + a * RUN, side + b * RUN);
  }
}

CLONES void block_rows_of(const double *X, size_t stride, size_t h, const double *w,
                          const double *center, const int64_t *table, size_t N, size_t m,
                          double *side, double *weighted, double *out) {
  block_rows(X, stride, h, w, center, table, N, m, side, weighted, out);
}

CLONES void block_rows_of(const float *X, size_t stride, size_t h, const float *w,
                          const float *center, const int64_t *table, size_t N, size_t m,
                          float *side, float *weighted, float *out) {
  block_rows(X, stride, h, w, center, table, N, m, side, weighted, out);
}

template <typename T>
nb::ndarray<nb::numpy, T> block_grams(Rows<T> X, Matrix<int64_t> table, Vector<T> w,
                                      std::optional<Vector<T>> center) {
  const size_t n = X.shape(0), p = X.shape(1), N = table.shape(0), m = table.shape(1);
  require(w.shape(0) == n, "w must have an entry for each row of X");
  require(!center || center->shape(0) == p, "center must have an entry for each column of X");
  require_rows(X);
  for (size_t i = 0; i < N * m; ++i)
    require(table.data()[i] >= -1 && table.data()[i] < int64_t(p),
            "table must hold columns of X, or -1");
  std::vector<T> out(N * m * m), side(m * RUN), weighted(m * RUN);
  {
    nb::gil_scoped_release release;
    const size_t stride = X.stride(0);
    for (size_t from = 0; from < n; from += RUN)
      block_rows_of(X.data() + from * stride, stride, std::min(RUN, n - from), w.data() + from,
                    center ? center->data() : nullptr, table.data(), N, m, side.data(),
                    weighted.data(), out.data());
    for (size_t g = 0; g < N; ++g)
      for (size_t a = 0; a < m; ++a)
        for (size_t b = 0; b < a; ++b) out[(g * m + a) * m + b] = out[(g * m + b) * m + a];
  }
  return owned(std::move(out), {N, m, m});
}

constexpr size_t STRIP = 512;  // columns whose sums stay in the first-level cache

template <typename T>
INLINE void sum_rows(const T *X, size_t stride, size_t h, size_t width, const T *w,
                     const T *center, T *squares, T *left) {
  for (size_t i = 0; i < h; ++i) {
    const T *x = X + i * stride, weight = w[i];
    if (center) {
      for (size_t j = 0; j < width; ++j) {
        const T d = x[j] - center[j], scaled = weight * d;
        left[j] += scaled;
        squares[j] += scaled * d;
      }
    } else {
      for (size_t j = 0; j < width; ++j) squares[j] += weight * x[j] * x[j];
    }
  }
}

CLONES void sum_rows_of(const double *X, size_t stride, size_t h, size_t width, const double *w,
                        const double *center, double *squares, double *left) {
  sum_rows(X, stride, h, width, w, center, squares, left);
}

CLONES void sum_rows_of(const float *X, size_t stride, size_t h, size_t width, const float *w,
                        const float *center, float *squares, float *left) {
  sum_rows(X, stride, h, width, w, center, squares, left);
}

template <typename T>
nb::tuple column_sums(Rows<T> X, Vector<T> w, std::optional<Vector<T>> center) {
  const size_t n = X.shape(0), p = X.shape(1);
  require(w.shape(0) == n, "w must have an entry for each row of X");
  require(!center || center->shape(0) == p, "center must have an entry for each column of X");
  require_rows(X);
  std::vector<T> squares(p), left(p);
  {
    nb::gil_scoped_release release;
    const size_t stride = X.stride(0);
    for (size_t from = 0; from < n; from += RUN)
      for (size_t j = 0; j < p; j += STRIP)
        sum_rows_of(X.data() + from * stride + j, stride, std::min(RUN, n - from),
                    std::min(STRIP, p - j), w.data() + from,
                    center ? center->data() + j : nullptr, squares.data() + j, left.data() + j);
  }
  return nb::make_tuple(owned(std::move(squares)), owned(std::move(left)));
}

template <typename T>
void bind_for(nb::module_ &module) {
  module.def("products", &products<T>, nb::arg("A").noconvert(), nb::arg("w").noconvert(),
             nb::arg("X").noconvert(), nb::arg("threads") = 1,
             nb::arg("center").noconvert().none() = nb::none());
  module.def("gram", &gram<T>, nb::arg("A").noconvert(), nb::arg("w").noconvert(),
             nb::arg("threads") = 1);
  module.def("column_sums", &column_sums<T>, nb::arg("X").noconvert(),
             nb::arg("w").noconvert(), nb::arg("center").noconvert().none() = nb::none());
  module.def("block_grams", &block_grams<T>, nb::arg("X").noconvert(), nb::arg("table"),
             nb::arg("w").noconvert(), nb::arg("center").noconvert().none() = nb::none());
}

}  // namespace

void bind_products(nb::module_ &module) {
  module.def("is_wide", &is_wide);
  bind_for<double>(module);
  bind_for<float>(module);
}
