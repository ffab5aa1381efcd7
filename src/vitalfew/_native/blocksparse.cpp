// A matrix stored by blocks, ready to be applied: checks at the door, panels, threads.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <type_traits>

#include "pool.hpp"
#include "spare.hpp"
#include "sparse_matrix.hpp"

namespace {

using namespace blocksparse;

template <typename Number>
using Input = nb::ndarray<const Number, nb::device::cpu>;
template <typename Number>
using Output = nb::ndarray<Number, nb::device::cpu>;
template <typename Number>
using Residual = std::optional<Input<Number>>;
using Pixels = std::pair<int64_t, int64_t>;

// What a convolution reads from where: each image is copied with its padding into planes,
// one for each channel and each phase of the strides, in which a shift of the kernel is a
// shift of the position. The padding on the right of a row is that on the left of the next.
struct Geometry {
  size_t channels, height, width;
  Pixels kernel, stride, padding, dilation;

  bool operator==(const Geometry &o) const {
    return channels == o.channels && height == o.height && width == o.width &&
           kernel == o.kernel && stride == o.stride && padding == o.padding &&
           dilation == o.dilation;
  }

  static size_t reached(size_t size, int64_t kernel, int64_t stride, int64_t padding,
                        int64_t dilation) {
    const int64_t free = int64_t(size) + 2 * padding - dilation * (kernel - 1) - 1;
    return free < 0 ? 0 : size_t(free / stride) + 1;
  }
  size_t out_height() const {
    return reached(height, kernel.first, stride.first, padding.first, dilation.first);
  }
  size_t out_width() const {
    return reached(width, kernel.second, stride.second, padding.second, dilation.second);
  }
  size_t pitch() const {
    return std::max(out_width(), (width + size_t(padding.second + stride.second) - 1) /
                                     size_t(stride.second));
  }
  size_t plane() const {
    const size_t rows = (height + size_t(2 * padding.first + stride.first) - 1) /
                        size_t(stride.first);
    const size_t over = size_t((padding.second + stride.second - 1) / stride.second);
    const size_t size = (rows * pitch() + over + 15) / 16 * 16;
    return size % 1024 ? size : size + 16;  // else all planes share their cache sets
  }
  size_t phases() const { return size_t(stride.first * stride.second); }
  size_t positions() const { return (out_height() - 1) * pitch() + out_width(); }

  // Where the first position reads column `i` of the matrix.
  size_t offset(size_t i) const {
    const size_t kw = size_t(kernel.second), kh = size_t(kernel.first);
    const size_t x = i % kw * size_t(dilation.second), y = i / kw % kh * size_t(dilation.first);
    const size_t sx = size_t(stride.second), sy = size_t(stride.first);
    const size_t phase = y % sy * sx + x % sx;
    return (i / (kw * kh) * phases() + phase) * plane() + y / sy * pitch() + x / sx;
  }

  static bool reads(size_t phase, int64_t kernel, int64_t stride, int64_t dilation) {
    for (int64_t i = 0; i < std::min(kernel, stride); ++i)
      if (size_t(i * dilation % stride) == phase) return true;
    return false;
  }

  // Copies the inside of one channel; the padding is zero and stays so.
  void copy(const float *x, ptrdiff_t row, float *planes) const {
    const size_t sx = size_t(stride.second), sy = size_t(stride.first);
    for (size_t b = 0; b < sx; ++b) {
      if (!reads(b, kernel.second, stride.second, dilation.second)) continue;
      const size_t before = size_t(padding.second) % sx;
      const size_t from = (b + sx - before) % sx;
      for (size_t i = 0; i < height; ++i) {
        const size_t at = i + size_t(padding.first);
        if (!reads(at % sy, kernel.first, stride.first, dilation.first)) continue;
        const float *source = x + ptrdiff_t(i) * row;
        float *to = planes + (at % sy * sx + b) * plane() + at / sy * pitch();
        if (sx == 1)
          std::memcpy(to + padding.second, source, width * sizeof(float));
        else
          for (size_t j = from; j < width; j += sx)
            to[(j + size_t(padding.second)) / sx] = source[j];
      }
    }
  }
};

// What one call needs beside the weights; kept for the next.
struct Workspace {
  Aligned<float> panels, scales;
  Aligned<int32_t> offsets;
  std::optional<Geometry> geometry;
};

std::vector<std::string> level_names() {
  size_t count;
  const Level *all = levels(count);
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i)
    if (all[i].present()) names.push_back(all[i].name);
  return names;
}

// The first and last byte of an array whose strides are not negative.
template <typename A>
std::pair<uintptr_t, uintptr_t> extent(const A &a) {
  size_t last = 0;
  for (size_t i = 0; i < a.ndim(); ++i) {
    if (!a.shape(i)) return {0, 0};
    last += (a.shape(i) - 1) * size_t(a.stride(i));
  }
  const uintptr_t first = reinterpret_cast<uintptr_t>(a.data());
  return {first, first + (last + 1) * sizeof(*a.data())};
}

template <typename A>
void require_lines(const A &a, const char *what) {
  if (!a.size()) return;  // strides of nothing mean nothing
  bool fits = a.stride(a.ndim() - 1) == 1 || a.shape(a.ndim() - 1) == 1;
  fits &= reinterpret_cast<uintptr_t>(a.data()) % sizeof(*a.data()) == 0;
  for (size_t i = 0; i < a.ndim(); ++i) fits &= a.stride(i) >= 0;
  require(fits, what);
}

// Whether no number of the result is written twice, outermost dimension first.
template <typename Number>
void require_apart(const Output<Number> &y) {
  if (!y.size()) return;
  size_t inner = 1;
  for (size_t i = y.ndim(); i-- > 0;) {
    if (y.shape(i) == 1) continue;
    require(size_t(y.stride(i)) >= inner, "the lines of y must not overlap");
    inner = size_t(y.stride(i)) * (y.shape(i) - 1) + inner;
  }
}

class BlockSparse : public SparseMatrix {
 public:
  using SparseMatrix::SparseMatrix;

  template <typename Number>
  void tokens(Input<Number> x, Output<Number> y, Residual<Number> residual,
              size_t threads) const {
    const ptrdiff_t words = sizeof(float) / sizeof(Number);
    require(words == 1 || kind == Kind::pair, "x and y must be of the kind of the weights");
    const size_t columns = words == 1 ? columns_in : 2 * w.n_in;
    require(x.ndim() == 2 && y.ndim() == 2 && x.shape(1) == columns && y.shape(1) == w.n_out &&
                x.shape(0) == y.shape(0),
            "x and y must have shapes (tokens, n_in) and (tokens, n_out)");
    check(x, y, residual);
    require(words == 1 || !x.size() ||
                (x.stride(0) % words == 0 &&
                 reinterpret_cast<uintptr_t>(x.data()) % sizeof(float) == 0),
            "the lines of x must begin at whole words");
    run(reinterpret_cast<const float *>(x.data()), x.stride(0) / words, y, residual, threads,
        Order::tokens, x.shape(0));
  }

  void features(Input<float> x, Output<float> y, Residual<float> residual,
                size_t threads) const {
    require(kind == Kind::single, "features must be of single precision, as the weights");
    require(x.ndim() == 2 && y.ndim() == 2 && x.shape(0) == w.n_in && y.shape(0) == w.n_out &&
                x.shape(1) == y.shape(1),
            "x and y must have shapes (n_in, tokens) and (n_out, tokens)");
    check(x, y, residual);
    run(x.data(), x.stride(0), y, residual, threads, Order::features, x.shape(1));
  }

  void images(Input<float> x, Output<float> y, Residual<float> residual, Pixels kernel,
              Pixels stride, Pixels padding, Pixels dilation, size_t threads) const {
    require(kind == Kind::single, "images must be of single precision, as the weights");
    require(x.ndim() == 4 && y.ndim() == 4, "x and y must have four dimensions");
    for (const auto &[pair, least] :
         {std::pair(kernel, 1), {stride, 1}, {padding, 0}, {dilation, 1}})
      require(std::min(pair.first, pair.second) >= least &&
                  std::max(pair.first, pair.second) <= 1 << 15,
              "kernel, stride, padding and dilation must be small numbers, none negative "
              "and but padding none zero");
    const Geometry g{x.shape(1), x.shape(2), x.shape(3), kernel, stride, padding, dilation};
    require(std::max({g.channels, g.height, g.width}) <= INT32_MAX &&
                uint64_t(kernel.first * kernel.second) * g.channels == w.n_in,
            "x must have as many channels as n_in over the size of the kernel");
    require(y.shape(0) == x.shape(0) && y.shape(1) == w.n_out && y.shape(2) == g.out_height() &&
                y.shape(3) == g.out_width(),
            "y must have the shape of the result");
    check(x, y, residual);
    if (!y.size()) return;
    require(double(g.plane()) * double(g.phases()) * double(std::max<size_t>(g.channels, 1)) +
                    PANEL < 2147483647.0,
            "an image is too large");
    nb::gil_scoped_release release;
    Spare<Workspace>::Held space(spare);
    convolve(*space, g, x, y, residual, threads);
  }

 private:
  template <typename Number>
  void check(const Input<Number> &x, const Output<Number> &y,
             const Residual<Number> &residual) const {
    require_lines(x, "the last dimension of x must lie in one piece");
    require_lines(y, "the last dimension of y must lie in one piece");
    require_apart(y);
    const auto [y_first, y_last] = extent(y);
    const auto meets = [&, first = y_first, last = y_last](const Input<Number> &a) {
      const auto [a_first, a_last] = extent(a);
      return a_first < last && first < a_last;
    };
    require(!meets(x), "y must not lie where x does");
    if (!residual) return;
    bool same = residual->ndim() == y.ndim(), in_place = residual->data() == y.data();
    for (size_t i = 0; same && i < y.ndim(); ++i) {
      same = residual->shape(i) == y.shape(i);
      in_place &= residual->stride(i) == y.stride(i) || y.shape(i) <= 1;
    }
    require(same, "residual must have the shape of y");
    require_lines(*residual, "the last dimension of residual must lie in one piece");
    require(in_place || !meets(*residual), "residual must be y, or lie elsewhere");
  }

  template <typename Number>
  void run(const float *x, ptrdiff_t ldx, const Output<Number> &y,
           const Residual<Number> &residual, size_t threads, Order order,
           size_t positions) const {
    if (!positions || !w.n_out) return;
    nb::gil_scoped_release release;
    const bool by_tokens = order == Order::tokens, bytes = kind == Kind::quad;
    const bool rounds = kind != Kind::single && std::is_same_v<Number, float>;
    const ptrdiff_t ldy = y.stride(0), ldr = residual ? residual->stride(0) : 0;
    Panel<Number> panel{};
    panel.at = columns.data();
    panel.order = order;
    panel.ldy = ldy;
    panel.ldr = ldr;
    threads = sensible(threads, positions);
    const bool few = positions <= level.few[log_height];
    if (positions == 1 && few && !rounds && (by_tokens || ldx == 1 || w.n_in == 1)) {
      panel.x = x;
      panel.ld = 1;
      panel.positions = 1;
      panel.few = true;
      panel.y = y.data();
      panel.residual = residual ? residual->data() : nullptr;
      multiply(panel, threads);
      return;
    }
    const size_t least = positions > 4 ? 8 : rounds && positions == 1 ? 1 : 4;
    const size_t width = few ? std::min(least, level.lanes)
                             : panel_vectors(positions) * level.lanes;
    const size_t panels = (positions + width - 1) / width;
    const size_t together = std::min(panels, threads), size = w.n_in * width;
    Spare<Workspace>::Held space(spare);
    (*space).panels.make(size * together);
    float *packed = (*space).panels.data(), *scales = nullptr, *inverses = nullptr;
    if (bytes) {
      (*space).scales.make(2 * together * width);
      scales = (*space).scales.data();
      inverses = scales + together * width;
    }
    panel.ld = ptrdiff_t(width);
    panel.few = few;
    for (size_t first = 0; first < panels; first += together) {
      const size_t now = std::min(together, panels - first);
      if (bytes)
        Pool::run(threads, [&](size_t part) {
          const size_t begin = first * width, all = std::min(now * width, positions - begin);
          const size_t from = all * part / threads, count = all * (part + 1) / threads - from;
          level.measure(x + ptrdiff_t(begin + from) * ldx, ldx, count, columns_in, scales + from,
                        inverses + from);
        });
      Pool::run(threads, [&](size_t part) {
        pack(x, ldx, by_tokens, rounds, inverses, positions, first, now, width, packed, part,
             threads);
      });
      Pool::run(threads, [&](size_t part) {
        const auto [low, high] = share(part, threads);
        Panel<Number> mine = panel;
        for (size_t i = 0; i < now; ++i) {
          const size_t from = (first + i) * width;
          mine.x = packed + i * size;
          if (bytes) mine.scales = scales + i * width;
          mine.positions = std::min(width, positions - from);
          const ptrdiff_t at = ptrdiff_t(from);
          mine.y = y.data() + (by_tokens ? at * ldy : at);
          if (residual) mine.residual = residual->data() + (by_tokens ? at * ldr : at);
          slices(mine, low, high);
        }
      });
    }
  }

  template <typename Number>
  void multiply(const Panel<Number> &panel, size_t threads) const {
    Pool::run(threads, [&](size_t part) {
      const auto [low, high] = share(part, threads);
      slices(panel, low, high);
    });
  }

  void slices(const Panel<float> &p, size_t low, size_t high) const {
    const auto loops = kind == Kind::single ? level.slices
                       : kind == Kind::pair ? level.slices_mixed
                                            : level.slices_bytes;
    loops(w, p, low, high);
  }
  void slices(const Panel<uint16_t> &p, size_t low, size_t high) const {
    level.slices_half(w, p, low, high);
  }

  // The part of a thread in copying panels [first, first + count).
  void pack(const float *x, ptrdiff_t ldx, bool by_tokens, bool rounds, const float *inverses,
            size_t positions, size_t first, size_t count, size_t width, float *packed,
            size_t part, size_t parts) const {
    const size_t strips = (w.n_in + STRIP - 1) / STRIP, all = strips * count;
    for (size_t i = all * part / parts; i < all * (part + 1) / parts; ++i) {
      const size_t from = (first + i / strips) * width, k = i % strips * STRIP;
      const size_t last = std::min(k + STRIP, w.n_in), there = std::min(width, positions - from);
      float *to = packed + i / strips * w.n_in * width;
      if (rounds && kind == Kind::pair)
        level.pack_halves(x + ptrdiff_t(from) * ldx, ldx, there, columns_in, k, last, to, width);
      else if (rounds)
        level.pack_bytes(x + ptrdiff_t(from) * ldx, ldx, there, columns_in,
                         inverses + i / strips * width, k, last, to, width);
      else if (by_tokens)
        level.pack_tokens(x + ptrdiff_t(from) * ldx, ldx, there, k, last, to, width);
      else
        level.pack_features(x + from, ldx, there, k, last, to, width);
    }
  }

  void convolve(Workspace &space, const Geometry &g, const Input<float> &x,
                const Output<float> &y, const Residual<float> &residual, size_t threads) const {
    const size_t positions = g.positions(), width = panel_vectors(positions) * level.lanes;
    const size_t one = g.phases() * g.plane();
    if (!(space.geometry == g)) {
      space.geometry.reset();
      const size_t entries = size_t(w.starts[w.runs]);
      space.offsets.make(entries);
      size_t furthest = 0;
      for (size_t e = 0; e < entries; ++e) {
        const size_t offset = g.offset(size_t(columns.data()[e]));
        furthest = std::max(furthest, offset);
        space.offsets.data()[e] = int32_t(offset);
      }
      space.panels.make_zero(std::max(g.channels * one, furthest + positions + width));
      space.geometry = g;
    }
    Panel<float> panel{};
    panel.at = space.offsets.data();
    panel.ld = 1;
    panel.few = false;
    panel.order = Order::image;
    panel.ldy = y.stride(1);
    panel.row = y.stride(2);
    if (residual) {
      panel.ldr = residual->stride(1);
      panel.residual_row = residual->stride(2);
    }
    threads = sensible(threads, positions);
    for (size_t image = 0; image < x.shape(0); ++image) {
      const float *from = x.data() + ptrdiff_t(image) * x.stride(0);
      Pool::run(threads, [&](size_t part) {
        for (size_t c = g.channels * part / threads; c < g.channels * (part + 1) / threads; ++c)
          g.copy(from + ptrdiff_t(c) * x.stride(1), x.stride(2), space.panels.data() + c * one);
      });
      Pool::run(threads, [&](size_t part) {
        const auto [low, high] = share(part, threads);
        Panel<float> mine = panel;
        mine.y = y.data() + ptrdiff_t(image) * y.stride(0);
        if (residual) mine.residual = residual->data() + ptrdiff_t(image) * residual->stride(0);
        for (size_t t = 0; t < positions; t += width) {
          mine.x = space.panels.data() + t;
          mine.positions = std::min(width, positions - t);
          mine.grid = {t, g.pitch(), g.out_width(), g.out_height(), nullptr};
          level.slices(w, mine, low, high);
        }
      });
    }
  }

  mutable Spare<Workspace> spare;
};

// A copy of numbers that Python owns.
template <typename T>
nb::object copied(const T *numbers, std::vector<size_t> shape) {
  size_t size = 1;
  for (const size_t n : shape) size *= n;
  T *copy = new T[size];
  nb::capsule owner(copy, [](void *held) noexcept { delete[] static_cast<T *>(held); });
  if (size) std::memcpy(copy, numbers, size * sizeof(T));
  return nb::cast(nb::ndarray<nb::numpy, T>(copy, shape.size(), shape.data(), owner));
}

nb::dict arrays_of(const SparseMatrix &m) {
  const Weights &w = m.w;
  const size_t entries = size_t(w.starts[w.runs]);
  nb::dict found;
  found["starts"] = copied(w.starts, {w.runs + 1});
  found["columns"] = copied(m.columns.data(), {entries});
  found["values"] = m.kind == Kind::single
                        ? copied(w.values, {entries, w.height})
                        : copied(reinterpret_cast<const uint32_t *>(w.values), {entries, w.height});
  found["bias"] = copied(w.bias, {w.n_out});
  if (m.kind == Kind::quad) found["scales"] = copied(m.scales.data(), {w.n_out});
  return found;
}

// Weights of one kind, and numbers of one.
template <typename Weight, typename Number>
void bind_kind(nb::class_<BlockSparse, SparseMatrix> &type) {
  type.def(nb::init<Vector<int64_t>, Vector<int32_t>, Matrix<Weight>, size_t, size_t,
                    std::optional<Vector<float>>, const std::string &,
                    const std::optional<std::string> &, std::optional<Vector<float>>>(),
           nb::arg("starts").noconvert(), nb::arg("columns").noconvert(),
           nb::arg("values").noconvert(), nb::arg("n_out"), nb::arg("n_in"),
           nb::arg("bias").noconvert().none() = nb::none(), nb::arg("activation") = "none",
           nb::arg("level").none() = nb::none(),
           nb::arg("scales").noconvert().none() = nb::none())
      .def("tokens", &BlockSparse::tokens<Number>, nb::arg("x").noconvert(),
           nb::arg("y").noconvert(), nb::arg("residual").noconvert().none() = nb::none(),
           nb::arg("threads") = 1);
}

}  // namespace

void bind_blocksparse(nb::module_ &module) {
  const auto none = nb::none();
  module.def("levels", &level_names);
  nb::class_<SparseMatrix>(module, "SparseMatrix");  // what programs take
  nb::class_<BlockSparse, SparseMatrix> type(module, "BlockSparse");
  bind_kind<float, float>(type);
  bind_kind<uint32_t, uint16_t>(type);
  type
      .def("features", &BlockSparse::features, nb::arg("x").noconvert(),
           nb::arg("y").noconvert(), nb::arg("residual").noconvert().none() = none,
           nb::arg("threads") = 1)
      .def("images", &BlockSparse::images, nb::arg("x").noconvert(), nb::arg("y").noconvert(),
           nb::arg("residual").noconvert().none() = none, nb::arg("kernel"),
           nb::arg("stride") = Pixels(1, 1), nb::arg("padding") = Pixels(0, 0),
           nb::arg("dilation") = Pixels(1, 1), nb::arg("threads") = 1)
      .def("arrays", &arrays_of)
      .def_prop_ro("nbytes", &BlockSparse::bytes)
      .def_prop_ro("level", &BlockSparse::level_name);
}
