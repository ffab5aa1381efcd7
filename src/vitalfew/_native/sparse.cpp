// Products of columns of sparse matrices, straight into dense results.
#include <type_traits>

#include "common.hpp"

namespace {

// The three arrays of a compressed matrix; `check` makes all later indexing safe.
template <typename T, typename I>
struct Compressed {
  Vector<I> starts, indices;
  Vector<T> data;

  size_t lines() const { return starts.shape(0) - 1; }
  void check(size_t width) const {
    require(starts.shape(0) >= 1 && indices.shape(0) == data.shape(0),
            "a compressed matrix needs starts, and as many indices as data");
    require(starts(0) == 0 && size_t(starts(lines())) <= data.shape(0),
            "starts must run from 0 to the number of entries");
    bool rising = true, inside = true;
    const I *from = starts.data(), *at = indices.data();
    for (size_t i = 0; i < lines(); ++i) rising &= from[i] <= from[i + 1];
    for (size_t i = 0; i < indices.shape(0); ++i)
      inside &= std::make_unsigned_t<I>(at[i]) < width;  // a negative one becomes large
    require(rising, "starts must not fall");
    require(inside, "indices must fit the shape");
  }
};

template <typename T, typename I>
nb::ndarray<nb::numpy, T> sparse_products(Vector<I> starts, Vector<I> indices, Vector<T> data,
                                          Vector<T> w, Vector<I> row_starts, Vector<I> row_indices,
                                          Vector<T> row_data, size_t p, size_t first,
                                          size_t stop) {
  const Compressed<T, I> A{starts, indices, data}, X{row_starts, row_indices, row_data};
  const size_t n = w.shape(0);
  A.check(n);
  require(X.starts.shape(0) == n + 1, "X must have a row for each entry of w");
  X.check(p);
  require(first <= stop && stop <= p, "the run of columns must lie within X");
  const size_t k = A.lines(), width = stop - first;
  std::vector<T> C(area(k, width));
  {
    nb::gil_scoped_release release;
    const I *at = X.starts.data(), *into = X.indices.data();
    const T *x = X.data.data();
    for (size_t i = 0; i < k; ++i) {
      T *out = C.data() + i * width;
      for (I e = A.starts(i); e < A.starts(i + 1); ++e) {
        const size_t row = A.indices(e);
        const T value = A.data(e) * w(row);
        if (width == p)
          for (I f = at[row]; f < at[row + 1]; ++f) out[into[f]] += value * x[f];
        else
          for (I f = at[row]; f < at[row + 1]; ++f)
            if (const size_t j = size_t(into[f]) - first; j < width) out[j] += value * x[f];
      }
    }
  }
  return owned(std::move(C), {k, width});
}

template <typename T, typename I>
nb::ndarray<nb::numpy, T> sparse_gram(Vector<I> starts, Vector<I> indices, Vector<T> data,
                                      Vector<T> w, size_t k) {
  const Compressed<T, I> A{starts, indices, data};
  require(A.starts.shape(0) == w.shape(0) + 1, "A must have a row for each entry of w");
  A.check(k);
  std::vector<T> G(area(k, k));
  {
    nb::gil_scoped_release release;
    for (size_t row = 0; row < A.lines(); ++row)
      for (I e = A.starts(row); e < A.starts(row + 1); ++e) {
        const T value = A.data(e) * w(row);
        T *out = G.data() + A.indices(e) * k;
        for (I f = A.starts(row); f < A.starts(row + 1); ++f)
          out[A.indices(f)] += value * A.data(f);
      }
  }
  return owned(std::move(G), {k, k});
}

template <typename T, typename I>
void bind_for(nb::module_ &module) {
  module.def("sparse_products", &sparse_products<T, I>, nb::arg("starts").noconvert(),
             nb::arg("indices").noconvert(), nb::arg("data").noconvert(),
             nb::arg("w").noconvert(), nb::arg("row_starts").noconvert(),
             nb::arg("row_indices").noconvert(), nb::arg("row_data").noconvert(), nb::arg("p"),
             nb::arg("first"), nb::arg("stop"));
  module.def("sparse_gram", &sparse_gram<T, I>, nb::arg("starts").noconvert(),
             nb::arg("indices").noconvert(), nb::arg("data").noconvert(),
             nb::arg("w").noconvert(), nb::arg("k"));
}

}  // namespace

void bind_sparse(nb::module_ &module) {
  bind_for<double, int32_t>(module);
  bind_for<double, int64_t>(module);
  bind_for<float, int32_t>(module);
  bind_for<float, int64_t>(module);
}
