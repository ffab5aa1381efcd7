// What the compiled loops share: array types, checks at the door, run-time clones.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace nb = nanobind;

// On x86-64 Linux the compiler clones hot functions for AVX-512, AVX2 and plain SSE2 and
// the loader picks at run time.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && \
    !defined(__clang__) && !defined(VITALFEW_NO_CLONES)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define HAS_CLONES 1
#else
#define CLONES
#define HAS_CLONES 0
#endif
#if defined(__GNUC__)
#define INLINE inline __attribute__((always_inline))
#else
#define INLINE inline
#endif

template <typename T>
using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Cube = nb::ndarray<const T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Rows = nb::ndarray<const T, nb::ndim<2>, nb::device::cpu>;  // rows in one piece each

inline void require(bool holds, const char *what) {
  if (!holds) throw std::invalid_argument(what);
}

// The size of a result, which sizes given as numbers must not overflow.
inline size_t area(size_t rows, size_t columns) {
  require(!columns || rows <= PTRDIFF_MAX / sizeof(double) / columns, "the result is too large");
  return rows * columns;
}

template <typename T>
nb::ndarray<nb::numpy, T> owned(std::vector<T> &&values, std::initializer_list<size_t> shape) {
  auto *held = new std::vector<T>(std::move(values));
  nb::capsule owner(held, [](void *p) noexcept { delete static_cast<std::vector<T> *>(p); });
  return nb::ndarray<nb::numpy, T>(held->data(), shape, owner);
}

template <typename T>
nb::ndarray<nb::numpy, T> owned(std::vector<T> &&values) {
  const size_t size = values.size();
  return owned(std::move(values), {size});
}
