// Block coordinate descent on a quadratic plus a penalty that is a sum over blocks; its
// twins in _descent_twins.py document it.
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "common.hpp"

namespace {

constexpr size_t MEMORY = 5;        // iterates an extrapolation is made of
constexpr int BLOCK_STEPS = 20;     // most proximal steps within one block
constexpr int NEWTON_STEPS = 60;    // most steps of a scalar root

CLONES void add_scaled(double *r, const double *h, double by, size_t m) {
  for (size_t j = 0; j < m; ++j) r[j] += by * h[j];
}
CLONES void add_scaled(float *r, const float *h, float by, size_t m) {
  for (size_t j = 0; j < m; ++j) r[j] += by * h[j];
}

// Sums of every 32nd product, so that they vectorise.
template <typename T>
INLINE T split_dot(const T *a, const T *b, size_t n) {
  constexpr size_t LANES = 32;
  T sums[LANES] = {};
  size_t j = 0;
  for (; j + LANES <= n; j += LANES)
    for (size_t l = 0; l < LANES; ++l) sums[l] += a[j + l] * b[j + l];
  T total = 0;
  for (; j < n; ++j) total += a[j] * b[j];
  for (size_t l = 0; l < LANES; ++l) total += sums[l];
  return total;
}
CLONES double dot(const double *a, const double *b, size_t n) { return split_dot(a, b, n); }
CLONES float dot(const float *a, const float *b, size_t n) { return split_dot(a, b, n); }

template <typename T>
T soft(T v, T cut) {
  return v > cut ? v - cut : (v < -cut ? v + cut : T(0));
}

// Each penalty of one coordinate: its value at u >= 0, and the least global minimiser of
// (u - v)^2 / (2 t) + value(u) over u >= 0 for v >= 0, under parameters p[0..2].

struct Shrink {  // p0 |u| + p1 |u| + p2 u^2 / 2; of a group p1 times its norm
  template <typename T>
  static T value(T u, const T *p) {
    return (p[0] + p[1]) * u + p[2] / 2 * u * u;
  }
  template <typename T>
  static T prox(T v, T t, const T *p) {
    const T left = v - t * (p[0] + p[1]);
    return left > 0 ? left / (1 + t * p[2]) : T(0);
  }
};

// The best of some stationary points, by the value of the proximal problem.
template <typename Kind, typename T>
struct Best {
  T v, t, best, least;
  const T *p;
  Best(T v, T t, const T *p) : v(v), t(t), best(0), least(v * v / (2 * t)), p(p) {}
  void offer(T u) {
    const T value = (u - v) * (u - v) / (2 * t) + Kind::value(u, p);
    if (value < least) least = value, best = u;
  }
};

struct MinimaxConcave {  // strength p0, concavity p1
  template <typename T>
  static T value(T u, const T *p) {
    return u < p[1] * p[0] ? p[0] * u - u * u / (2 * p[1]) : p[1] * p[0] * p[0] / 2;
  }
  template <typename T>
  static T prox(T v, T t, const T *p) {
    Best<MinimaxConcave, T> found(v, t, p);
    const T bend = p[0] * p[1];
    // clipped, not left out: rounding may put a point beyond its own piece
    if (t < p[1]) found.offer(std::clamp((v - t * p[0]) / (1 - t / p[1]), T(0), bend));
    if (v >= bend) found.offer(v);
    return found.best;
  }
};

struct SmoothlyClipped {  // strength p0, p1 > 2
  template <typename T>
  static T value(T u, const T *p) {
    const T s = p[0], a = p[1];
    if (u <= s) return s * u;
    if (u <= a * s) return (2 * a * s * u - u * u - s * s) / (2 * (a - 1));
    return s * s * (a + 1) / 2;
  }
  template <typename T>
  static T prox(T v, T t, const T *p) {
    Best<SmoothlyClipped, T> found(v, t, p);
    const T s = p[0], a = p[1];
    found.offer(std::clamp(v - t * s, T(0), s));  // clipped, as above
    if (t < a - 1) found.offer(std::clamp(((a - 1) * v - t * a * s) / (a - 1 - t), s, a * s));
    if (v >= a * s) found.offer(v);
    return found.best;
  }
};

struct Power {  // strength p0, exponent p1 in (0, 1)
  template <typename T>
  static T value(T u, const T *p) {
    return u > 0 ? p[0] * std::pow(u, p[1]) : T(0);
  }
  template <typename T>
  static T prox(T v, T t, const T *p) {
    const T q = p[1], pull = t * p[0] * q;
    if (!(pull > 0)) return v;
    // where the slope u + pull u^(q-1) is least; a stationary point lies to its right
    const T bend = std::pow(pull * (1 - q), 1 / (2 - q));
    if (v <= bend + pull * std::pow(bend, q - 1)) return T(0);
    T u = v;  // the slope is convex, so Newton comes down to the root from above
    for (int i = 0; i < NEWTON_STEPS; ++i) {
      const T power = pull * std::pow(u, q - 1);
      const T step = (u + power - v) / (1 + (q - 1) * power / u);
      u = std::max(u - step, bend);
      if (std::abs(step) <= 4 * std::numeric_limits<T>::epsilon() * u) break;
    }
    Best<Power, T> found(v, t, p);
    found.offer(u);
    return found.best;
  }
};

struct Logarithm {  // strength p0, offset p1
  template <typename T>
  static T value(T u, const T *p) {
    return p[0] * std::log1p(u / p[1]);
  }
  template <typename T>
  static T prox(T v, T t, const T *p) {
    Best<Logarithm, T> found(v, t, p);
    const T sum = v + p[1], twice = 2 * std::sqrt(t) * std::sqrt(p[0]);
    if (sum >= twice) {
      // where the two terms nearly cancel, by the product of the two roots
      const T root = std::sqrt(sum - twice) * std::sqrt(sum + twice), gap = v - p[1];
      const T u = gap > 0 ? (gap + root) / 2 : 2 * (v * p[1] - t * p[0]) / (root - gap);
      if (u > 0) found.offer(u);
    }
    return found.best;
  }
};

// The quadratic (u - z)'H(u - z)/2 + g'(u - z), given by H; its state is the gradient.
template <typename T>
struct GramModel {
  const T *H, *g, *z;
  size_t m;
  std::vector<T> state;

  T entry(size_t i, size_t j) const { return H[i * m + j]; }
  T slope(size_t i, const T *) const { return state[i]; }
  void move(size_t i, T by) { add_scaled(state.data(), H + i * m, by, m); }
  void begin() { state.assign(g, g + m); }
  T value(const T *u, const T *at) const {
    T total = 0;
    for (size_t i = 0; i < m; ++i) total += (u[i] - z[i]) * (at[i] + g[i]) / 2;
    return total;
  }
};

// The same for H = A A' + diag(ridge) with rows of A that lie anywhere; its state is the
// combination A'(u - z), shorter than a row of H where the rows of A are many.
template <typename T>
struct ColumnModel {
  const T *A, *ridge, *g, *z;
  const int64_t *slots;
  size_t m, n;
  std::vector<T> state;

  const T *row(size_t i) const { return A + slots[i] * n; }
  T entry(size_t i, size_t j) const {
    return dot(row(i), row(j), n) + (i == j ? ridge[i] : T(0));
  }
  T slope(size_t i, const T *u) const {
    return g[i] + dot(row(i), state.data(), n) + ridge[i] * (u[i] - z[i]);
  }
  void move(size_t i, T by) { add_scaled(state.data(), row(i), by, n); }
  void begin() { state.assign(n, T(0)); }
  T value(const T *u, const T *at) const {
    T total = 0;
    for (size_t j = 0; j < n; ++j) total += at[j] * at[j] / 2;
    for (size_t i = 0; i < m; ++i) {
      const T by = u[i] - z[i];
      total += g[i] * by + ridge[i] / 2 * by * by;
    }
    return total;
  }
};

// Minimises a quadratic plus sum_b penalty_b(u_b) from u = z.
template <typename Kind, typename T, typename Model>
class Descent {
 public:
  Descent(Model model, T *u, const int64_t *starts, size_t k, const T *parameters, T tol)
      : model(std::move(model)), g(this->model.g), z(this->model.z), u(u), starts(starts),
        m(this->model.m), k(k), parameters(parameters), tol(tol), lipschitz(k), places(k) {
    for (size_t b = 0; b < k; ++b) {
      places[b] = blocks.size();
      for (int64_t i = starts[b]; i < starts[b + 1]; ++i)
        for (int64_t j = starts[b]; j < starts[b + 1]; ++j)
          blocks.push_back(this->model.entry(i, j));
      lipschitz[b] = curvature(b);
    }
    this->model.begin();
    T largest = 0;
    for (size_t i = 0; i < m; ++i) largest = std::max(largest, std::abs(g[i]));
    exacting = tol < T(1e5) * std::numeric_limits<T>::epsilon() * largest;
  }

  int64_t run(int64_t most) {
    std::vector<size_t> all(k), active;
    for (size_t b = 0; b < k; ++b) all[b] = b;
    int64_t epochs = 0;
    while (epochs < most) {
      ++epochs;
      if (pass(all) <= tol) {
        if (!exacting) break;
        refresh();  // sums that were updated many times have lost digits
        if (residual() <= tol) break;
      }
      active.clear();
      for (size_t b = 0; b < k; ++b)
        if (!is_zero(b)) active.push_back(b);
      forget();
      while (epochs < most && !active.empty()) {
        ++epochs;
        if (pass(active) <= tol / 2) break;
        keep();
        if (kept_u.size() == (MEMORY + 1) * m) extrapolate();
      }
    }
    return epochs;
  }

 private:
  Model model;
  const T *g, *z;
  T *u;
  const int64_t *starts;
  size_t m, k;
  const T *parameters;
  T tol;
  bool exacting;
  std::vector<T> lipschitz;
  std::vector<size_t> places;  // of each block of H in `blocks`
  std::vector<T> blocks, kept_u, kept_state, next, moved, gradient;

  size_t size(size_t b) const { return starts[b + 1] - starts[b]; }

  bool is_zero(size_t b) const {
    for (int64_t i = starts[b]; i < starts[b + 1]; ++i)
      if (u[i] != 0) return false;
    return true;
  }

  // An upper bound of the largest eigenvalue of a block, exact for one coordinate.
  T curvature(size_t b) const {
    const T *h = &blocks[places[b]];
    const size_t n = size(b);
    T rows = 0, squares = 0;
    for (size_t i = 0; i < n; ++i) {
      T sum = 0;
      for (size_t j = 0; j < n; ++j) sum += std::abs(h[i * n + j]);
      rows = std::max(rows, sum);
    }
    if (n == 1 || !(rows > 0)) return rows;
    for (size_t i = 0; i < n * n; ++i) squares += (h[i] / rows) * (h[i] / rows);
    return rows * std::min(T(1), std::sqrt(squares));
  }

  void refresh() {
    model.begin();
    for (size_t i = 0; i < m; ++i)
      if (u[i] != z[i]) model.move(i, u[i] - z[i]);
  }

  // Proximal step of a block from v with gradient g, into w.
  void step(size_t b, const T *v, const T *g, T *w) const {
    const T L = lipschitz[b], *p = parameters + 3 * b;
    const size_t n = size(b);
    if (n == 1) {
      if (L > 0) {
        const T to = v[0] - g[0] / L;
        const T length = Kind::prox(std::abs(to), 1 / L, p);
        w[0] = to < 0 ? -length : length;
      } else {
        w[0] = Kind::value(T(1), p) > 0 ? T(0) : v[0];
      }
      return;
    }
    if (!(L > 0)) {  // nothing but the penalty: to zero if there is one
      const bool free = !(Kind::value(T(1), p) > 0);
      for (size_t i = 0; i < n; ++i) w[i] = free ? v[i] : T(0);
      return;
    }
    T square = 0;
    for (size_t i = 0; i < n; ++i) {
      w[i] = soft(v[i] - g[i] / L, p[0] / L);
      square += w[i] * w[i];
    }
    const T length = std::sqrt(square), cut = p[1] / L;
    const T factor = length > cut ? (1 - cut / length) / (1 + p[2] / L) : T(0);
    for (size_t i = 0; i < n; ++i) w[i] *= factor;
  }

  // Minimise over some blocks in turn; the largest move, as a change of the gradient.
  T pass(const std::vector<size_t> &blocks) {
    T worst = 0;
    for (size_t b : blocks) {
      const size_t at = starts[b], n = size(b);
      if (n == 1) {
        const T slope = model.slope(at, u);
        T new_value;
        step(b, u + at, &slope, &new_value);
        const T by = new_value - u[at];
        if (by == 0) continue;
        worst = std::max(worst, std::abs(by) * lipschitz[b]);
        u[at] = new_value;
        model.move(at, by);
      } else {
        worst = std::max(worst, within(b));
      }
    }
    return worst;
  }

  // Several proximal steps within a block, then one update of the whole gradient.
  T within(size_t b) {
    const size_t at = starts[b], n = size(b);
    moved.assign(u + at, u + at + n);
    slopes(b);
    next.resize(n);
    T first = 0;
    for (int count = 0; count < BLOCK_STEPS; ++count) {
      step(b, moved.data(), gradient.data(), next.data());
      T square = 0;
      for (size_t i = 0; i < n; ++i) {
        const T by = next[i] - moved[i];
        square += by * by;
        if (by == 0) continue;
        const T *h = &blocks[places[b]] + i * n;
        for (size_t j = 0; j < n; ++j) gradient[j] += by * h[j];
        moved[i] = next[i];
      }
      const T length = std::sqrt(square) * lipschitz[b];
      if (count == 0) first = length;
      if (!(length > std::max(tol / 4, first / 100))) break;
    }
    T square = 0;
    for (size_t i = 0; i < n; ++i) {
      const T by = moved[i] - u[at + i];
      if (by == 0) continue;
      square += by * by;
      u[at + i] = moved[i];
      model.move(at + i, by);
    }
    return std::max(first, std::sqrt(square) * lipschitz[b]);
  }

  // How far one step of each block from this very point would go.
  T residual() {
    T worst = 0;
    for (size_t b = 0; b < k; ++b) {
      const size_t at = starts[b], n = size(b);
      next.resize(std::max(next.size(), n));
      slopes(b);
      step(b, u + at, gradient.data(), next.data());
      T square = 0;
      for (size_t i = 0; i < n; ++i)
        square += (next[i] - u[at + i]) * (next[i] - u[at + i]);
      worst = std::max(worst, std::sqrt(square) * lipschitz[b]);
    }
    return worst;
  }

  void slopes(size_t b) {
    gradient.resize(std::max(gradient.size(), size(b)));
    for (size_t i = 0; i < size(b); ++i) gradient[i] = model.slope(starts[b] + i, u);
  }

  void keep() {
    kept_u.insert(kept_u.end(), u, u + m);
    kept_state.insert(kept_state.end(), model.state.begin(), model.state.end());
  }

  // Keep nothing but where u stands.
  void forget() {
    kept_u.clear();
    kept_state.clear();
    keep();
  }

  T value(const T *at, const T *state) const {
    T total = model.value(at, state);
    for (size_t b = 0; b < k; ++b) {
      const T *p = parameters + 3 * b;
      if (size(b) == 1) {
        total += Kind::value(std::abs(at[starts[b]]), p);
        continue;
      }
      T sum = 0, square = 0;
      for (int64_t i = starts[b]; i < starts[b + 1]; ++i) {
        sum += std::abs(at[i]);
        square += at[i] * at[i];
      }
      total += p[0] * sum + p[1] * std::sqrt(square) + p[2] / 2 * square;
    }
    return total;
  }

  // The affine combination of the kept iterates whose moves cancel best, if it is lower.
  void extrapolate() {
    T A[MEMORY][MEMORY], weights[MEMORY];
    T trace = 0;
    for (size_t i = 0; i < MEMORY; ++i)
      for (size_t j = 0; j <= i; ++j) {
        const T *a = &kept_u[i * m], *b = &kept_u[j * m];
        T sum = 0;
        for (size_t l = 0; l < m; ++l) sum += (a[m + l] - a[l]) * (b[m + l] - b[l]);
        A[i][j] = A[j][i] = sum;
        if (i == j) trace += sum;
      }
    for (size_t i = 0; i < MEMORY; ++i) {
      A[i][i] += trace * T(1e-10);
      weights[i] = 1;
    }
    const bool solved = trace > 0 && solve_small(A, weights);
    T total = 0;
    for (T w : weights) total += w;
    if (solved && std::isfinite(total) && total != 0) {
      const size_t n = model.state.size();
      std::vector<T> ahead(m, T(0)), state(n, T(0));
      for (size_t i = 0; i < MEMORY; ++i) {
        add_scaled(ahead.data(), &kept_u[(i + 1) * m], weights[i] / total, m);
        add_scaled(state.data(), &kept_state[(i + 1) * n], weights[i] / total, n);
      }
      if (value(ahead.data(), state.data()) < value(u, model.state.data())) {
        std::copy(ahead.begin(), ahead.end(), u);
        model.state = std::move(state);
      }
    }
    forget();
  }

  // Cholesky of a tiny matrix; false if it is not positive definite.
  static bool solve_small(T (&A)[MEMORY][MEMORY], T (&b)[MEMORY]) {
    for (size_t i = 0; i < MEMORY; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        T sum = A[i][j];
        for (size_t l = 0; l < j; ++l) sum -= A[i][l] * A[j][l];
        if (i == j) {
          if (!(sum > 0)) return false;
          A[i][i] = std::sqrt(sum);
        } else {
          A[i][j] = sum / A[j][j];
        }
      }
      for (size_t l = 0; l < i; ++l) b[i] -= A[i][l] * b[l];
      b[i] /= A[i][i];
    }
    for (size_t i = MEMORY; i-- > 0;) {
      for (size_t l = i + 1; l < MEMORY; ++l) b[i] -= A[l][i] * b[l];
      b[i] /= A[i][i];
    }
    return true;
  }
};

// Checks what all models have, minimises and returns u with the number of passes.
template <typename T, typename Model>
nb::tuple minimise(Model model, Vector<int64_t> starts, const std::string &kind,
                   Matrix<T> parameters, double tol, int64_t most) {
  require(starts.shape(0) >= 1, "starts must not be empty");
  const size_t m = model.m, k = starts.shape(0) - 1;
  require(parameters.shape(0) == k && parameters.shape(1) == 3,
          "parameters must have shape (blocks, 3)");
  require(starts(0) == 0 && starts(k) == int64_t(m), "starts must run from 0 to the rows of H");
  for (size_t b = 0; b < k; ++b) require(starts(b) < starts(b + 1), "starts must rise");
  require(kind == "shrink" || k == m, "only blocks of one coordinate have this kind of penalty");
  std::vector<T> u(model.z, model.z + m);
  int64_t epochs = -1;
  {
    nb::gil_scoped_release release;
    const auto go = [&](auto form) {
      Descent<decltype(form), T, Model> work(std::move(model), u.data(), starts.data(), k,
                                             parameters.data(), T(tol));
      epochs = work.run(most);
    };
    if (kind == "shrink") go(Shrink());
    else if (kind == "mcp") go(MinimaxConcave());
    else if (kind == "scad") go(SmoothlyClipped());
    else if (kind == "lq") go(Power());
    else if (kind == "log_sum") go(Logarithm());
  }
  require(epochs >= 0, "kind must be shrink, mcp, scad, lq or log_sum");
  return nb::make_tuple(owned(std::move(u)), epochs);
}

template <typename T>
nb::tuple descend(Matrix<T> H, Vector<T> g, Vector<T> z, Vector<int64_t> starts,
                  const std::string &kind, Matrix<T> parameters, double tol, int64_t most) {
  const size_t m = H.shape(0);
  require(H.shape(1) == m, "H must be square");
  require(g.shape(0) == m && z.shape(0) == m, "g and z must have a number for each row of H");
  GramModel<T> model{H.data(), g.data(), z.data(), m, {}};
  return minimise<T>(std::move(model), starts, kind, parameters, tol, most);
}

template <typename T>
nb::tuple descend_columns(Matrix<T> A, Vector<int64_t> slots, Vector<T> ridge, Vector<T> g,
                          Vector<T> z, Vector<int64_t> starts, const std::string &kind,
                          Matrix<T> parameters, double tol, int64_t most) {
  const size_t m = slots.shape(0);
  require(g.shape(0) == m && z.shape(0) == m && ridge.shape(0) == m,
          "ridge, g and z must have a number for each slot");
  for (size_t i = 0; i < m; ++i)
    require(slots(i) >= 0 && slots(i) < int64_t(A.shape(0)), "slots must hold rows of A");
  ColumnModel<T> model{A.data(), ridge.data(), g.data(), z.data(), slots.data(), m, A.shape(1), {}};
  return minimise<T>(std::move(model), starts, kind, parameters, tol, most);
}

template <typename T>
void define_descent(nb::module_ &module) {
  module.def("descend", &descend<T>, nb::arg("H").noconvert(), nb::arg("g").noconvert(),
             nb::arg("z").noconvert(), nb::arg("starts"), nb::arg("kind"),
             nb::arg("parameters").noconvert(), nb::arg("tol"), nb::arg("most"));
  module.def("descend_columns", &descend_columns<T>, nb::arg("A").noconvert(), nb::arg("slots"),
             nb::arg("ridge").noconvert(), nb::arg("g").noconvert(), nb::arg("z").noconvert(),
             nb::arg("starts"), nb::arg("kind"), nb::arg("parameters").noconvert(),
             nb::arg("tol"), nb::arg("most"));
}

}  // namespace

void bind_descent(nb::module_ &module) {
  define_descent<double>(module);
  define_descent<float>(module);
}
