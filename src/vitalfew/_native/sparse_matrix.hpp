// A matrix stored by columns of a few rows: its checks, and how its work is cut up.
#pragma once

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "blocksparse.hpp"
#include "common.hpp"
#include "pool.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace blocksparse {

constexpr size_t HUGE_PAGE = size_t(1) << 21;

// Numbers that begin at a cache line.
template <typename T>
class Aligned {
 public:
  Aligned() = default;
  Aligned(const Aligned &) = delete;
  Aligned &operator=(const Aligned &) = delete;
  ~Aligned() { release(); }

  T *data() { return held; }
  const T *data() const { return held; }

  // Room for `size` numbers, whatever they are.
  void make(size_t size) {
    if (size <= room && held) return;
    require(size <= PTRDIFF_MAX / sizeof(T), "the matrix is too large");
    release();
    const size_t bytes = size * sizeof(T);
    alignment = std::align_val_t(bytes >= HUGE_PAGE ? HUGE_PAGE : 64);
    held = static_cast<T *>(::operator new(bytes, alignment));
    room = size;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    // weights that stream and panels that are read here and there want large pages
    if (bytes >= HUGE_PAGE) madvise(held, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
  }

  void make_zero(size_t size) {
    make(size);
    std::memset(held, 0, room * sizeof(T));
  }

 private:
  void release() {
    if (held) ::operator delete(held, alignment);
    held = nullptr;
    room = 0;
  }
  std::align_val_t alignment{64};
  T *held = nullptr;
  size_t room = 0;
};

inline const Level &level_of(const std::optional<std::string> &name) {
  size_t count;
  const Level *all = levels(count);
  for (size_t i = 0; i < count; ++i)
    if ((!name || *name == all[i].name) && all[i].present()) return all[i];
  throw std::invalid_argument("level must be one of levels()");
}

inline Activation activation_of(const std::string &name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "silu") return Activation::silu;
  throw std::invalid_argument("activation must be none, relu, gelu or silu");
}

class SparseMatrix {
 public:
  // Number is float, or uint32_t for pairs of bfloat16, and quads of bytes if there are
  // scales of rows.
  template <typename Number>
  SparseMatrix(Vector<int64_t> starts_, Vector<int32_t> columns_, Matrix<Number> values_,
               size_t n_out, size_t n_in, std::optional<Vector<float>> bias_,
               const std::string &activation, const std::optional<std::string> &level_name,
               std::optional<Vector<float>> scales_ = {})
      : level(level_of(level_name)) {
    kind = std::is_same_v<Number, float> ? Kind::single : scales_ ? Kind::quad : Kind::pair;
    require(kind != Kind::single || !scales_, "scales must be those of words");
    // sums of products of bytes, which are at most 128 * 255, stay below 2^31
    require(kind != Kind::quad || n_in <= MOST_OF_BYTES, "n_in must be at most 65792 for bytes");
    require(!scales_ || scales_->shape(0) == n_out, "scales must have an entry for each row");
    columns_in = n_in;
    n_in = (n_in + columns_of(kind) - 1) / columns_of(kind);
    const size_t height = values_.shape(1), entries = columns_.shape(0);
    while (log_height < 5 && size_t(1) << log_height != height) ++log_height;
    require(log_height < 5, "values must have 1, 2, 4, 8 or 16 columns");
    require(n_out <= INT32_MAX && n_in <= INT32_MAX, "n_out and n_in must be below 2^31");
    const size_t runs = (n_out + height - 1) / height;
    require(starts_.shape(0) == runs + 1, "starts must have one entry more than runs of rows");
    require(values_.shape(0) == entries, "values must have a row for each of columns");
    require(starts_(0) == 0 && starts_(runs) == int64_t(entries),
            "starts must run from 0 to the number of entries");
    bool rising = true, inside = true;
    for (size_t i = 0; i < runs; ++i) rising &= starts_(i) <= starts_(i + 1);
    for (size_t i = 0; i < entries; ++i) inside &= uint32_t(columns_(i)) < n_in;
    require(rising, "starts must not fall");
    require(inside, "columns must lie within n_in");
    require(!bias_ || bias_->shape(0) == n_out, "bias must have an entry for each row");
    starts.make(runs + 1);
    columns.make(entries);
    values.make(area(entries, height));
    bias.make_zero((n_out + SLICE - 1) / SLICE * SLICE);
    std::copy_n(starts_.data(), runs + 1, starts.data());
    std::copy_n(columns_.data(), entries, columns.data());
    if (entries) std::memcpy(values.data(), values_.data(), entries * height * sizeof(float));
    if (bias_) std::copy_n(bias_->data(), n_out, bias.data());
    if (scales_) {
      scales.make_zero((n_out + SLICE - 1) / SLICE * SLICE);
      excess.make_zero((n_out + SLICE - 1) / SLICE * SLICE);
      std::copy_n(scales_->data(), n_out, scales.data());
      add_up(n_out, height);
    }
    w = {starts.data(), values.data(), bias.data(), scales.data(), excess.data(),
         n_out, n_in, runs, height, activation_of(activation)};
  }

  size_t bytes() const {
    const size_t of_rows = kind == Kind::quad ? w.n_out * 8 : 0;
    return size_t(w.starts[w.runs]) * (w.height + 1) * 4 + (w.runs + 1) * 8 + of_rows;
  }
  const char *level_name() const { return level.name; }

  // Vectors of the panels that cover some positions, about equally many each.
  size_t panel_vectors(size_t positions) const {
    const size_t vectors = (positions + level.lanes - 1) / level.lanes;
    const size_t most = level.most[log_height], panels = (vectors + most - 1) / most;
    return (vectors + panels - 1) / panels;
  }

  // Threads that bring something: each does some hundred thousand products.
  size_t sensible(size_t threads, size_t positions) const {
    const double work = double(w.starts[w.runs]) * double(w.height) * double(positions);
    return std::max<size_t>(1, std::min({threads, Pool::MOST, size_t(work / 200'000)}));
  }

  // The slices of one of `parts` threads: about equally many products each.
  std::pair<size_t, size_t> share(size_t part, size_t parts) const {
    const size_t slices = (w.n_out + SLICE - 1) / SLICE, per_slice = SLICE / w.height;
    const auto cost = [&](size_t slice) {
      return uint64_t(w.starts[std::min(slice * per_slice, w.runs)]) + 8 * per_slice * slice;
    };
    const auto cut = [&](size_t i) {
      if (i == parts) return slices;
      const double target = double(cost(slices)) * double(i) / double(parts);
      size_t low = 0, high = slices;
      while (low < high) {
        const size_t middle = (low + high) / 2;
        if (double(cost(middle)) < target)
          low = middle + 1;
        else
          high = middle;
      }
      return low;
    };
    return {cut(part), cut(part + 1)};
  }

  const Level &level;
  Weights w{};
  size_t log_height = 0, columns_in = 0;
  Kind kind = Kind::single;
  Aligned<int64_t> starts;
  Aligned<int32_t> columns;
  Aligned<float> values, bias, scales;
  Aligned<uint32_t> excess;

 private:
  static constexpr size_t MOST_OF_BYTES = 65792;

  // What 128 more in each feature adds to the sums of each row.
  void add_up(size_t n_out, size_t height) {
    for (size_t row = 0; row < n_out; ++row) {
      uint32_t sum = 0;
      for (int64_t e = starts.data()[row / height]; e < starts.data()[row / height + 1]; ++e) {
        int8_t bytes[4];
        std::memcpy(bytes, values.data() + size_t(e) * height + row % height, sizeof bytes);
        for (const int8_t byte : bytes) sum += uint32_t(byte);
      }
      excess.data()[row] = 128 * sum;
    }
  }
};

}  // namespace blocksparse
