// Exchanges within many small quadratics that share one Hessian, as rows of a layer do.
//
// Each part keeps the inverse P of its Hessian on the support, W = P C with C the rows of
// the Hessian there, and what curvature every other column has left. An exchange is a
// change of rank two of all of them, so that one costs k p multiplications, not k^2 p.
#include <algorithm>
#include <atomic>
#include <limits>
#include <system_error>
#include <thread>

#include "common.hpp"

namespace {

constexpr double FLOOR = 1e-9;
constexpr size_t WIDTH = 256;  // columns worked on at a time

template <typename T>
struct Part {
  const T *H;  // (p, p)
  size_t p, K, k, q, run;
  T *P;         // (K, K), used (k, k)
  T *W;         // (k, p)
  T *left;      // (p,): infinite inside the support
  T *z;         // (k, q)
  T *gradient;  // (q, p)
  int64_t *ids;
};

template <typename T>
struct Best {
  T gain;
  size_t out, into;
};

template <typename T>
INLINE void search_strip(const Part<T> &s, size_t from, size_t width, Best<T> &best) {
  T gain[WIDTH], out[WIDTH], total[WIDTH], least[WIDTH];
  const T *left = s.left + from;
  for (size_t j = 0; j < width; ++j) {
    gain[j] = -std::numeric_limits<T>::infinity();
    out[j] = 0;
    least[j] = T(FLOOR) * s.H[(from + j) * (s.p + 1)];
  }
  for (size_t h = 0; h < s.k; ++h) {
    const T *w = s.W + h * s.p + from;
    const T inverse = T(1) / s.P[h * (s.K + 1)];
    T loss = 0;
    for (size_t o = 0; o < s.q; ++o) loss += s.z[h * s.q + o] * s.z[h * s.q + o];
    loss *= inverse;
    for (size_t j = 0; j < width; ++j) total[j] = 0;
    for (size_t o = 0; o < s.q; ++o) {
      const T move = s.z[h * s.q + o] * inverse;
      const T *g = s.gradient + o * s.p + from;
      for (size_t j = 0; j < width; ++j) {
        const T moved = w[j] * move - g[j];
        total[j] += moved * moved;
      }
    }
    for (size_t j = 0; j < width; ++j) {
      T spread = w[j] * w[j] * inverse + left[j];
      spread = spread > least[j] ? spread : least[j];
      const T value = spread > 0 ? total[j] / spread - loss : -loss;
      const bool better = value > gain[j];
      gain[j] = better ? value : gain[j];
      out[j] = better ? T(h) : out[j];
    }
  }
  for (size_t j = 0; j < width; ++j)
    if (gain[j] > best.gain) best = {gain[j], size_t(out[j]), from + j};
}

template <typename T>
INLINE void search_run(const Part<T> &s, size_t h, Best<T> &best) {
  const size_t first = size_t(s.ids[h]) / s.run * s.run, last = std::min(first + s.run, s.p);
  const T *w = s.W + h * s.p;
  const T inverse = T(1) / s.P[h * (s.K + 1)];
  T loss = 0;
  for (size_t o = 0; o < s.q; ++o) loss += s.z[h * s.q + o] * s.z[h * s.q + o] * inverse;
  for (size_t j = first; j < last; ++j) {
    T total = 0;
    for (size_t o = 0; o < s.q; ++o) {
      const T moved = w[j] * s.z[h * s.q + o] * inverse - s.gradient[o * s.p + j];
      total += moved * moved;
    }
    const T spread = std::max(w[j] * w[j] * inverse + s.left[j], T(FLOOR) * s.H[j * (s.p + 1)]);
    const T value = spread > 0 ? total / spread - loss : -loss;
    if (value > best.gain) best = {value, h, j};
  }
}

template <typename T>
INLINE void subtract(T *a, const T *b, T by, size_t n) {
  for (size_t j = 0; j < n; ++j) a[j] -= by * b[j];
}

template <typename T>
INLINE void exchange(const Part<T> &s, size_t h, size_t into, T *row, T *column, T *gone) {
  const size_t p = s.p, K = s.K, k = s.k, q = s.q;
  T *Wh = s.W + h * p, *zh = s.z + h * q;
  const T d = s.P[h * K + h], inverse = T(1) / d;
  std::copy(Wh, Wh + p, gone);
  for (size_t a = 0; a < k; ++a) column[a] = a == h ? T(0) : s.P[a * K + h] * inverse;
  // h leaves: all that it stood for goes back to the others
  s.left[s.ids[h]] = 0;
  for (size_t j = 0; j < p; ++j) s.left[j] += gone[j] * gone[j] * inverse;
  for (size_t o = 0; o < q; ++o) {
    const T by = zh[o] * inverse;
    subtract(s.gradient + o * p, gone, by, p);
    for (size_t a = 0; a < k; ++a) s.z[a * q + o] -= column[a] * zh[o];
    zh[o] = 0;
  }
  // the row of the newcomer in the Hessian with the support taken out
  const T *Hj = s.H + into * p;
  std::copy(Hj, Hj + p, row);
  const T *Ph = s.P + h * K;
  for (size_t a = 0; a < k; ++a) {
    if (a == h) continue;
    subtract(s.W + a * p, gone, column[a], p);
    subtract(row, s.W + a * p, Hj[s.ids[a]], p);
    subtract(s.P + a * K, Ph, column[a], k);
  }
  const T spread =
      std::max(s.left[into], std::max(T(FLOOR) * Hj[into], std::numeric_limits<T>::min()));
  const T share = T(1) / spread;
  for (size_t a = 0; a < k; ++a) column[a] = a == h ? T(-1) : s.W[a * p + into];
  for (size_t j = 0; j < p; ++j) s.left[j] -= row[j] * row[j] * share;
  for (size_t o = 0; o < q; ++o) {
    const T found = -s.gradient[o * p + into] * share;
    subtract(s.gradient + o * p, row, -found, p);
    for (size_t a = 0; a < k; ++a) s.z[a * q + o] -= column[a] * found;
  }
  for (size_t a = 0; a < k; ++a) {
    if (a == h)
      for (size_t j = 0; j < p; ++j) Wh[j] = row[j] * share;
    else
      subtract(s.W + a * p, row, column[a] * share, p);
    s.P[a * K + h] = a == h ? T(0) : s.P[a * K + h];
  }
  for (size_t a = 0; a < k; ++a) s.P[h * K + a] = 0;
  for (size_t a = 0; a < k; ++a)
    for (size_t b = 0; b < k; ++b) s.P[a * K + b] += column[a] * column[b] * share;
  s.ids[h] = int64_t(into);
  for (size_t a = 0; a < k; ++a) s.left[s.ids[a]] = std::numeric_limits<T>::infinity();
}

template <typename T>
struct Result {
  int64_t swaps;
  T loss, gain;  // of the best drop and the best addition alone
  int64_t drop, add;
};

// Makes the best exchange until none gains more than `least`.
template <typename T>
INLINE Result<T> search(const Part<T> &s, T least, size_t most, T *work) {
  const size_t p = s.p, q = s.q;
  const T infinity = std::numeric_limits<T>::infinity();
  for (size_t j = 0; j < p; ++j) s.left[j] = s.H[j * (p + 1)];
  for (size_t a = 0; a < s.k; ++a) {
    const T *c = s.H + size_t(s.ids[a]) * p, *w = s.W + a * p;
    for (size_t j = 0; j < p; ++j) s.left[j] -= c[j] * w[j];
  }
  for (size_t a = 0; a < s.k; ++a) s.left[s.ids[a]] = infinity;
  Result<T> result{0, infinity, 0, 0, 0};
  for (; result.swaps < int64_t(most); ++result.swaps) {
    Best<T> best{-infinity, 0, 0};
    if (s.run)
      for (size_t h = 0; h < s.k; ++h) search_run(s, h, best);
    else
      for (size_t from = 0; from < p; from += WIDTH)
        search_strip(s, from, std::min(WIDTH, p - from), best);
    if (!(best.gain > 2 * least)) break;
    exchange(s, best.out, best.into, work, work + p, work + p + s.K);
  }
  for (size_t a = 0; a < s.k; ++a) {
    T cost = 0;
    for (size_t o = 0; o < q; ++o) cost += s.z[a * q + o] * s.z[a * q + o];
    cost /= 2 * s.P[a * (s.K + 1)];
    if (cost < result.loss) result.loss = cost, result.drop = s.ids[a];
  }
  for (size_t j = 0; j < p; ++j) {
    T total = 0;
    for (size_t o = 0; o < q; ++o) total += s.gradient[o * p + j] * s.gradient[o * p + j];
    const T spread = std::max(s.left[j], T(FLOOR) * s.H[j * (p + 1)]);
    const T value = spread > 0 ? total / (2 * spread) : T(0);
    if (value > result.gain) result.gain = value, result.add = int64_t(j);
  }
  return result;
}

CLONES Result<double> search_of(const Part<double> &s, double least, size_t most, double *work) {
  return search(s, least, most, work);
}

CLONES Result<float> search_of(const Part<float> &s, float least, size_t most, float *work) {
  return search(s, least, most, work);
}

template <typename T>
nb::tuple exchange_parts(Matrix<T> H, Cube<T> P, Cube<T> W, Matrix<int64_t> ids,
                         Vector<int64_t> counts, Cube<T> z, Cube<T> gradient, Vector<T> least,
                         size_t run, size_t most, size_t threads) {
  const size_t p = H.shape(0), n = P.shape(0), K = P.shape(1), q = z.shape(2);
  require(H.shape(1) == p, "H must be square");
  require(P.shape(2) == K, "P must hold square matrices");
  require(W.shape(0) == n && W.shape(1) == K && W.shape(2) == p, "W must have shape (n, K, p)");
  require(ids.shape(0) == n && ids.shape(1) == K, "ids must have shape (n, K)");
  require(z.shape(0) == n && z.shape(1) == K, "z must have shape (n, K, q)");
  require(gradient.shape(0) == n && gradient.shape(1) == q && gradient.shape(2) == p,
          "gradient must have shape (n, q, p)");
  require(counts.shape(0) == n && least.shape(0) == n,
          "counts and least must have an entry for each part");
  for (size_t i = 0; i < n; ++i) {
    require(counts(i) >= 0 && counts(i) <= int64_t(K), "counts must lie between 0 and K");
    for (int64_t a = 0; a < counts(i); ++a)
      require(ids(i, a) >= 0 && ids(i, a) < int64_t(p), "ids must be columns of H");
  }
  threads = std::max<size_t>(1, std::min({threads, n, size_t(64)}));
  std::vector<int64_t> chosen(ids.data(), ids.data() + n * K), swaps(n), drop(n), add(n);
  std::vector<T> loss(n), gain(n);
  const size_t own = area(K + 1, K + p + q + 1) + (q + 4) * p;
  std::vector<T> work(area(threads, own));
  {
    nb::gil_scoped_release release;
    std::atomic<size_t> next{0};
    const auto some = [&](size_t thread) {
      T *inverse = work.data() + thread * own, *rows = inverse + K * K;
      T *coefficients = rows + K * p, *slope = coefficients + K * q;
      T *left = slope + q * p, *rest = left + p;
      for (size_t i = next++; i < n; i = next++) {
        const size_t k = size_t(counts(i));
        std::copy_n(P.data() + i * K * K, k * K, inverse);
        std::copy_n(W.data() + i * K * p, k * p, rows);
        std::copy_n(z.data() + i * K * q, k * q, coefficients);
        std::copy_n(gradient.data() + i * q * p, q * p, slope);
        const Part<T> part{H.data(), p,    K,    k,            q,     run,
                           inverse,  rows, left, coefficients, slope, chosen.data() + i * K};
        const Result<T> result = search_of(part, least(i), most, rest);
        swaps[i] = result.swaps;
        loss[i] = result.loss, drop[i] = result.drop;
        gain[i] = result.gain, add[i] = result.add;
      }
    };
    std::vector<std::thread> others;
    others.reserve(threads);
    try {
      for (size_t t = 1; t < threads; ++t) others.emplace_back(some, t);
    } catch (const std::system_error &) {  // fewer do as well
    }
    some(0);
    for (auto &other : others) other.join();
  }
  return nb::make_tuple(owned(std::move(chosen), {n, K}), owned(std::move(swaps)),
                        owned(std::move(loss)), owned(std::move(drop)), owned(std::move(gain)),
                        owned(std::move(add)));
}

template <typename T>
void bind_for(nb::module_ &module) {
  module.def("exchange_parts", &exchange_parts<T>, nb::arg("H").noconvert(),
             nb::arg("P").noconvert(), nb::arg("W").noconvert(), nb::arg("ids"),
             nb::arg("counts"), nb::arg("z").noconvert(), nb::arg("gradient").noconvert(),
             nb::arg("least").noconvert(), nb::arg("run") = 0, nb::arg("most") = 1000,
             nb::arg("threads") = 1);
}

}  // namespace

void bind_swaps(nb::module_ &module) {
  bind_for<double>(module);
  bind_for<float>(module);
}
