// The hot loops. Each has a NumPy twin in _twins.py, which documents it.
//
// Loops run over columns innermost, so that they vectorise without reassociating any
// sum.
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "common.hpp"

void bind_blocksparse(nb::module_ &module);
void bind_descent(nb::module_ &module);
void bind_products(nb::module_ &module);
void bind_program(nb::module_ &module);
void bind_sparse(nb::module_ &module);
void bind_swaps(nb::module_ &module);

namespace {

using Mask = std::optional<nb::ndarray<const bool, nb::ndim<2>, nb::c_contig, nb::device::cpu>>;

constexpr double FLOOR = 1e-9;
constexpr size_t WIDTH = 512;  // columns worked on at a time

// One strip of columns [from, from + width) of the single exchanges.
template <typename T>
INLINE void single_strip(const T *C, const T *W, size_t k, size_t p, size_t q, const T *z,
                         const T *d, const T *gradient, const T *curvature,
                         const bool *allowed, size_t from, size_t width, T *gain,
                         int64_t *out) {
  T left[WIDTH], total[WIDTH];
  for (size_t j = 0; j < width; ++j) left[j] = curvature[from + j];
  for (size_t h = 0; h < k; ++h) {
    const T *c = C + h * p + from, *w = W + h * p + from;
    for (size_t j = 0; j < width; ++j) left[j] -= c[j] * w[j];
  }
  for (size_t j = 0; j < width; ++j) gain[j] = -std::numeric_limits<T>::infinity();
  for (size_t j = 0; j < width; ++j) out[j] = 0;
  for (size_t h = 0; h < k; ++h) {
    const T *w = W + h * p + from;
    const T inverse = T(1) / d[h];
    T loss = 0;
    for (size_t o = 0; o < q; ++o) loss += z[h * q + o] * z[h * q + o];
    loss *= inverse / 2;
    if (q == 1) {
      const T move = z[h] * inverse;
      const T *g = gradient + from;
      for (size_t j = 0; j < width; ++j) {
        const T moved = w[j] * move - g[j];
        total[j] = moved * moved;
      }
    } else {
      for (size_t j = 0; j < width; ++j) total[j] = 0;
      for (size_t o = 0; o < q; ++o) {
        const T move = z[h * q + o] * inverse;
        for (size_t j = 0; j < width; ++j) {
          const T moved = w[j] * move - gradient[(from + j) * q + o];
          total[j] += moved * moved;
        }
      }
    }
    const bool *may = allowed ? allowed + h * p + from : nullptr;
    for (size_t j = 0; j < width; ++j) {
      const T least = T(FLOOR) * curvature[from + j];
      T spread = w[j] * w[j] * inverse + left[j];
      spread = spread > least ? spread : least;
      T value = total[j] / (2 * spread) - loss;
      if (may) value = may[j] ? value : -std::numeric_limits<T>::infinity();
      const bool better = spread > 0 && value > gain[j];
      gain[j] = better ? value : gain[j];
      out[j] = better ? int64_t(h) : out[j];
    }
  }
}

CLONES void single_strip_of(const double *C, const double *W, size_t k, size_t p, size_t q,
                            const double *z, const double *d, const double *gradient,
                            const double *curvature, const bool *allowed, size_t from,
                            size_t width, double *gain, int64_t *out) {
  single_strip(C, W, k, p, q, z, d, gradient, curvature, allowed, from, width, gain, out);
}

CLONES void single_strip_of(const float *C, const float *W, size_t k, size_t p, size_t q,
                            const float *z, const float *d, const float *gradient,
                            const float *curvature, const bool *allowed, size_t from,
                            size_t width, float *gain, int64_t *out) {
  single_strip(C, W, k, p, q, z, d, gradient, curvature, allowed, from, width, gain, out);
}

template <typename T>
nb::tuple best_single_exchanges(Matrix<T> C, Matrix<T> W, Matrix<T> z, Vector<T> d,
                                Matrix<T> gradient, Vector<T> curvature, Mask allowed) {
  const size_t k = C.shape(0), p = C.shape(1), q = z.shape(1);
  require(W.shape(0) == k && W.shape(1) == p, "W must have the shape of C");
  require(z.shape(0) == k && d.shape(0) == k, "z and d must have a row for each row of C");
  require(gradient.shape(0) == p && gradient.shape(1) == q && curvature.shape(0) == p,
          "gradient and curvature must have an entry for each column of C");
  require(!allowed || (allowed->shape(0) == k && allowed->shape(1) == p),
          "allowed must have the shape of C");
  std::vector<T> gain(p);
  std::vector<int64_t> out(p);
  {
    nb::gil_scoped_release release;
    for (size_t from = 0; from < p; from += WIDTH) {
      const size_t width = std::min(WIDTH, p - from);
      single_strip_of(C.data(), W.data(), k, p, q, z.data(), d.data(), gradient.data(),
                      curvature.data(), allowed ? allowed->data() : nullptr, from, width,
                      gain.data() + from, out.data() + from);
    }
  }
  return nb::make_tuple(owned(std::move(gain)), owned(std::move(out)));
}

// In-place Cholesky solve of S u = c for q right-hand sides, returning sum c.u; columns
// whose pivot is noise are left out, which can only lower the gain.
template <typename T>
T quadratic_form(T *S, T *c, size_t m, size_t q, const T *least) {
  T total = 0;
  for (size_t i = 0; i < m; ++i) {
    T pivot = S[i * m + i];
    for (size_t l = 0; l < i; ++l) pivot -= S[i * m + l] * S[i * m + l];
    const bool used = pivot > least[i];
    const T root = used ? std::sqrt(pivot) : T(1);
    for (size_t j = i + 1; j < m; ++j) {
      T sum = S[j * m + i];
      for (size_t l = 0; l < i; ++l) sum -= S[j * m + l] * S[i * m + l];
      S[j * m + i] = used ? sum / root : T(0);
    }
    for (size_t o = 0; o < q; ++o) {
      T sum = c[i * q + o];
      for (size_t l = 0; l < i; ++l) sum -= S[i * m + l] * c[l * q + o];
      c[i * q + o] = used ? sum / root : T(0);
      total += c[i * q + o] * c[i * q + o];
    }
  }
  return total;
}

// Inverse of a small symmetric positive definite matrix by Gauss-Jordan.
template <typename T>
void invert(const T *A, size_t stride, size_t m, T *out) {
  std::vector<T> work(m * m);
  for (size_t i = 0; i < m; ++i)
    for (size_t j = 0; j < m; ++j) {
      work[i * m + j] = A[i * stride + j];
      out[i * m + j] = i == j;
    }
  for (size_t i = 0; i < m; ++i) {
    const T pivot = T(1) / work[i * m + i];
    for (size_t j = 0; j < m; ++j) {
      work[i * m + j] *= pivot;
      out[i * m + j] *= pivot;
    }
    for (size_t r = 0; r < m; ++r) {
      if (r == i) continue;
      const T factor = work[r * m + i];
      for (size_t j = 0; j < m; ++j) {
        work[r * m + j] -= factor * work[i * m + j];
        out[r * m + j] -= factor * out[i * m + j];
      }
    }
  }
}

template <typename T>
nb::tuple best_group_exchanges(Matrix<T> C, Matrix<T> W, Matrix<int64_t> table,
                               Cube<T> blocks, Matrix<T> z, Matrix<T> P,
                               Vector<int64_t> starts, Matrix<T> gradient, Mask allowed) {
  const size_t K = C.shape(0), p = C.shape(1), q = z.shape(1);
  const size_t N = table.shape(0), m = table.shape(1), k = starts.shape(0) - 1;
  require(starts.shape(0) >= 1, "starts must not be empty");
  require(W.shape(0) == K && W.shape(1) == p, "W must have the shape of C");
  require(blocks.shape(0) == N && blocks.shape(1) == m && blocks.shape(2) == m,
          "blocks must have shape (N, m, m)");
  require(z.shape(0) == K && P.shape(0) == K && P.shape(1) == K,
          "z and P must have a row for each row of C");
  require(gradient.shape(0) == p && gradient.shape(1) == q,
          "gradient must have a row for each column of C");
  require(!allowed || (allowed->shape(0) == k && allowed->shape(1) == N),
          "allowed must have shape (k, N)");
  require(starts(0) == 0 && starts(k) == int64_t(K), "starts must run from 0 to K");
  for (size_t h = 0; h < k; ++h) require(starts(h) <= starts(h + 1), "starts must not fall");
  for (size_t i = 0; i < N * m; ++i)
    require(table.data()[i] >= -1 && table.data()[i] < int64_t(p),
            "table must hold columns of C, or -1");

  std::vector<T> gain(N, -std::numeric_limits<T>::infinity());
  std::vector<int64_t> out(N, 0);
  {
    nb::gil_scoped_release release;
    std::vector<std::vector<T>> inverse(k), moved(k);
    std::vector<T> loss(k, 0);
    for (size_t h = 0; h < k; ++h) {
      const size_t at = starts(h), size = starts(h + 1) - starts(h);
      inverse[h].resize(size * size);
      moved[h].assign(size * q, 0);
      invert(P.data() + at * K + at, K, size, inverse[h].data());
      for (size_t i = 0; i < size; ++i)
        for (size_t l = 0; l < size; ++l)
          for (size_t o = 0; o < q; ++o)
            moved[h][i * q + o] += inverse[h][i * size + l] * z.data()[(at + l) * q + o];
      for (size_t i = 0; i < size * q; ++i)
        loss[h] += z.data()[at * q + i] * moved[h][i] / 2;
    }
    std::vector<T> left(m * m), S(m * m), c(m * q), least(m), MW;
    std::vector<T> Cj(K * m), Wj(K * m);
    for (size_t j = 0; j < N; ++j) {
      const int64_t *ids = table.data() + j * m;
      size_t size = 0;
      while (size < m && ids[size] >= 0) ++size;
      if (!size) continue;
      const T *block = blocks.data() + j * m * m;
      for (size_t r = 0; r < K; ++r)
        for (size_t a = 0; a < size; ++a) {
          Cj[r * size + a] = C.data()[r * p + ids[a]];
          Wj[r * size + a] = W.data()[r * p + ids[a]];
        }
      for (size_t a = 0; a < size; ++a) {
        least[a] = T(FLOOR) * block[a * m + a];
        for (size_t b = 0; b < size; ++b) left[a * size + b] = block[a * m + b];
      }
      for (size_t r = 0; r < K; ++r)
        for (size_t a = 0; a < size; ++a)
          for (size_t b = 0; b < size; ++b)
            left[a * size + b] -= Cj[r * size + a] * Wj[r * size + b];
      for (size_t h = 0; h < k; ++h) {
        if (allowed && !allowed->data()[h * N + j]) continue;
        const size_t at = starts(h), own = starts(h + 1) - starts(h);
        MW.assign(own * size, 0);
        for (size_t i = 0; i < own; ++i)
          for (size_t l = 0; l < own; ++l)
            for (size_t a = 0; a < size; ++a)
              MW[i * size + a] += inverse[h][i * own + l] * Wj[(at + l) * size + a];
        std::copy(left.begin(), left.begin() + size * size, S.begin());
        for (size_t i = 0; i < own; ++i)
          for (size_t a = 0; a < size; ++a)
            for (size_t b = 0; b < size; ++b)
              S[a * size + b] += Wj[(at + i) * size + a] * MW[i * size + b];
        for (size_t a = 0; a < size; ++a)
          for (size_t o = 0; o < q; ++o) c[a * q + o] = -gradient.data()[ids[a] * q + o];
        for (size_t i = 0; i < own; ++i)
          for (size_t a = 0; a < size; ++a)
            for (size_t o = 0; o < q; ++o)
              c[a * q + o] += Wj[(at + i) * size + a] * moved[h][i * q + o];
        const T value = quadratic_form(S.data(), c.data(), size, q, least.data()) / 2 - loss[h];
        if (value > gain[j]) {
          gain[j] = value;
          out[j] = int64_t(h);
        }
      }
    }
  }
  return nb::make_tuple(owned(std::move(gain)), owned(std::move(out)));
}

}  // namespace

NB_MODULE(_core, module) {
  module.doc() = "Compiled loops; documented in _twins.py.";
  bind_blocksparse(module);
  bind_descent(module);
  const auto none = nb::none();
  bind_products(module);
  bind_program(module);
  bind_sparse(module);
  bind_swaps(module);
  module.def("best_single_exchanges", &best_single_exchanges<double>, nb::arg("C").noconvert(),
             nb::arg("W").noconvert(), nb::arg("z").noconvert(), nb::arg("d").noconvert(),
             nb::arg("gradient").noconvert(), nb::arg("curvature").noconvert(),
             nb::arg("allowed").none() = none);
  module.def("best_single_exchanges", &best_single_exchanges<float>, nb::arg("C").noconvert(),
             nb::arg("W").noconvert(), nb::arg("z").noconvert(), nb::arg("d").noconvert(),
             nb::arg("gradient").noconvert(), nb::arg("curvature").noconvert(),
             nb::arg("allowed").none() = none);
  module.def("best_group_exchanges", &best_group_exchanges<double>, nb::arg("C").noconvert(),
             nb::arg("W").noconvert(), nb::arg("table"), nb::arg("blocks").noconvert(),
             nb::arg("z").noconvert(), nb::arg("P").noconvert(), nb::arg("starts"),
             nb::arg("gradient").noconvert(), nb::arg("allowed").none() = none);
  module.def("best_group_exchanges", &best_group_exchanges<float>, nb::arg("C").noconvert(),
             nb::arg("W").noconvert(), nb::arg("table"), nb::arg("blocks").noconvert(),
             nb::arg("z").noconvert(), nb::arg("P").noconvert(), nb::arg("starts"),
             nb::arg("gradient").noconvert(), nb::arg("allowed").none() = none);
}
