// A network, or a part of one, whose layers are carried out in one call. The formats of its
// steps are documented in _program_twins.py.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "pool.hpp"
#include "spare.hpp"
#include "sparse_matrix.hpp"

namespace {

using namespace blocksparse;
using Numbers = std::vector<int64_t>;

// As in _program_twins.py.
enum class Op { copy, product, add, pool, mean, pack, unpack };
enum Where { none = -1, buffer, input, output };

constexpr int64_t MOST = (int64_t(1) << 31) - 1;  // sums of three products stay below 2^64
constexpr size_t SLACK = 64;  // floats behind a buffer that whole vectors may read
static_assert(SLACK >= PANEL, "");

[[noreturn]] void refuse(const std::string &what) { throw std::invalid_argument(what); }

// The numbers of a step one after the other, each within its bounds.
class Reader {
 public:
  Reader(const Numbers &step_, size_t number)
      : step(step_), where("step " + std::to_string(number) + ": ") {}

  int64_t next(const char *name, int64_t low, int64_t high) {
    if (at == step.size()) refuse(where + "must have more numbers, " + name + " is missing");
    const int64_t value = step[at++];
    if (value < low || value > high)
      refuse(where + name + " must be from " + std::to_string(low) + " to " +
             std::to_string(high) + ", got " + std::to_string(value));
    return value;
  }
  size_t size(const char *name) { return size_t(next(name, 1, MOST)); }
  size_t index(const char *name, size_t count) {
    return size_t(next(name, 0, int64_t(count) - 1));
  }
  Activation activation() { return Activation(next("activation", 0, 3)); }

  void check(bool holds, const char *what) const {
    if (!holds) refuse(where + what);
  }
  void done() const { check(at == step.size(), "must have fewer numbers"); }

 private:
  const Numbers &step;
  const std::string where;
  size_t at = 0;
};

// Matrices that Python holds too.
class Matrices {
 public:
  explicit Matrices(std::vector<nb::object> objects) : owned(std::move(objects)) {
    for (const nb::object &object : owned) {
      const SparseMatrix *matrix = nullptr;
      require(nb::try_cast(object, matrix) && matrix, "matrices must be of BlockSparse");
      require(matrix->kind == Kind::single, "matrices must be of single precision");
      require(matrix->w.n_out > 0, "matrices must have rows");
      require(all.empty() || &matrix->level == &all[0]->level,
              "matrices must be of the same level");
      all.push_back(matrix);
    }
  }
  size_t size() const { return all.size(); }
  const SparseMatrix &operator[](size_t i) const { return *all[i]; }
  const Level &level() const { return all.empty() ? level_of({}) : all[0]->level; }

 private:
  std::vector<nb::object> owned;
  std::vector<const SparseMatrix *> all;
};

// What calls of a program hold: buffers for each thread, and where the arrays are.
struct Space {
  std::vector<std::unique_ptr<Aligned<float>>> arenas;
  std::vector<const float *> inputs;
  std::vector<float *> outputs;
  std::vector<ptrdiff_t> input_lines, output_lines;

  // Room for so many threads, made by the caller's so that others cannot fail.
  void make(size_t threads, size_t floats) {
    while (arenas.size() < threads) {
      auto arena = std::make_unique<Aligned<float>>();
      arena->make_zero(floats);
      arenas.push_back(std::move(arena));
    }
  }
};

// Where the numbers of an array lie; the end is behind the last.
struct Extent {
  const float *first, *end;
  bool meets(const Extent &o) const { return first < o.end && o.first < end; }
};

// Threads for so many simple operations, or four times as many products, of which each
// does at least `least`. Steps that follow one another want more than whole programs.
size_t sensible(size_t threads, double work, double least) {
  return std::max<size_t>(1, std::min({threads, Pool::MOST, size_t(work / least)}));
}
constexpr double PROGRAM = 50'000, STEP = 200'000;

// Whether threads take items, rather than all of them parts of each step.
template <typename Steps>
bool by_items(const Steps &steps, double work, size_t items, size_t size, size_t threads) {
  if (items >= threads) return true;
  double shared = 0;
  for (const auto &step : steps) {
    const double mine = step.work * double(size);
    shared += mine / double(sensible(threads, mine, STEP));
  }
  return double(items) * shared >= work;
}

// The distances of channels, rows and elements.
struct Plane {
  size_t channel, row, element;
};

typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));

INLINE void copy_row(const float *from, size_t step, size_t n, float *to) {
  size_t j = 0;
  if (step == 1)
    for (; j + 8 <= n; j += 8)
      *reinterpret_cast<Eight *>(to + j) = *reinterpret_cast<const Eight *>(from + j);
  if (step == 2)  // no number behind the last is read
    for (; j + 8 <= n; j += 8)
      *reinterpret_cast<Eight *>(to + j) = __builtin_shufflevector(
          *reinterpret_cast<const Eight *>(from + 2 * j),
          *reinterpret_cast<const Eight *>(from + 2 * j + 7), 0, 2, 4, 6, 9, 11, 13, 15);
  for (; j < n; ++j) to[j] = from[j * step];
}

CLONES void copy_planes(const float *from, Plane f, size_t channels, size_t height,
                        size_t width, float *to, Plane t) {
  for (size_t c = 0; c < channels; ++c)
    for (size_t i = 0; i < height; ++i)
      copy_row(from + c * f.channel + i * f.row, f.element, width,
               to + c * t.channel + i * t.row);
}

CLONES void most_line(const float *from, size_t n, size_t step, float *to) {
  const auto larger = [](float a, float b) { return b > a || b != b ? b : a; };
  if (step == 1)
    for (size_t i = 0; i < n; ++i) to[i] = larger(to[i], from[i]);
  else if (step == 2)
    for (size_t i = 0; i < n; ++i) to[i] = larger(to[i], from[2 * i]);
  else
    for (size_t i = 0; i < n; ++i) to[i] = larger(to[i], from[i * step]);
}

CLONES void sum_line(const float *from, size_t n, size_t step, float *to) {
  if (step == 1)
    for (size_t i = 0; i < n; ++i) to[i] += from[i];
  else if (step == 2)
    for (size_t i = 0; i < n; ++i) to[i] += from[2 * i];
  else
    for (size_t i = 0; i < n; ++i) to[i] += from[i * step];
}

CLONES void mean_planes(const float *from, size_t channels, size_t plane, size_t height,
                        size_t width, size_t pitch, float *to, size_t to_plane) {
  const float share = 1.0f / (float(height) * float(width));
  for (size_t c = 0; c < channels; ++c) {
    float sums[8] = {}, rest = 0;
    for (size_t i = 0; i < height; ++i) {
      const float *line = from + c * plane + i * pitch;
      size_t j = 0;
      for (; j + 8 <= width; j += 8)
        for (size_t l = 0; l < 8; ++l) sums[l] += line[j + l];
      for (; j < width; ++j) rest += line[j];
    }
    for (size_t l = 0; l < 4; ++l) sums[l] += sums[l + 4];
    to[c * to_plane] = (sums[0] + sums[2] + (sums[1] + sums[3]) + rest) * share;
  }
}

// Where a value lies: element (c, i, j) at first + c * plane + i * pitch + j.
struct Value {
  int64_t kind;
  size_t index, first, plane, pitch;

  size_t last(size_t channels, size_t height, size_t width, size_t step = 1) const {
    return first + (channels - 1) * plane + (height - 1) * pitch + (width - 1) * step;
  }
};

// The windows of pooling along one direction.
struct Windows {
  size_t kernel, stride, padding, in, out;

  // Of window i: the first and behind the last position inside.
  std::pair<size_t, size_t> inside(size_t i) const {
    const size_t from = i * stride;
    return {from < padding ? 0 : from - padding, std::min(from + kernel - padding, in)};
  }
  // Its positions inside, or also those of the padding.
  size_t count(size_t i, bool padded) const {
    if (padded) return std::min(kernel, in + 2 * padding - i * stride);
    const auto [low, high] = inside(i);
    return high - low;
  }
  // The windows whose position k lies inside: first and behind the last.
  std::pair<size_t, size_t> reach(size_t k) const {
    const size_t low = k >= padding ? 0 : (padding - k + stride - 1) / stride;
    if (in + padding <= k) return {0, 0};
    return {low, std::max(low, std::min(out, (in + padding - k - 1) / stride + 1))};
  }
};

class ImageProgram {
 public:
  ImageProgram(std::vector<nb::object> objects, std::vector<Vector<int32_t>> tables_,
               const Numbers &buffers, const std::vector<Numbers> &inputs_,
               const std::vector<Numbers> &outputs_, const std::vector<Numbers> &steps_)
      : matrices(std::move(objects)), level(matrices.level()) {
    for (const auto &table : tables_) {
      const int32_t *from = table.data();
      tables.emplace_back(from, from + table.shape(0));
      numbers += table.shape(0);
    }
    for (const int64_t size : buffers) {
      require(size >= 0 && size <= MOST, "buffers must be from 0 to 2^31 - 1 floats");
      starts.push_back(arena);
      sizes[buffer].push_back(size_t(size));
      arena += (size_t(size) + SLACK + 15) / 16 * 16;
    }
    shapes(inputs_, inputs, sizes[input]);
    shapes(outputs_, outputs, sizes[output]);
    steps.reserve(steps_.size());
    for (size_t i = 0; i < steps_.size(); ++i) {
      Reader reader(steps_[i], i);
      steps.push_back(parse(reader));
      reader.done();
      work += steps.back().work;
    }
  }

  void run(const std::vector<nb::ndarray<const float, nb::c_contig, nb::device::cpu>> &from,
           const std::vector<nb::ndarray<float, nb::c_contig, nb::device::cpu>> &to,
           size_t threads) const {
    require(from.size() == inputs.size(), "inputs must be as many as the program has");
    require(to.size() == outputs.size(), "outputs must be as many as the program has");
    const size_t n = !from.empty() ? leading(from[0]) : !to.empty() ? leading(to[0]) : 0;
    Spare<Space>::Held space(spare);
    space->inputs.resize(from.size());
    space->outputs.resize(to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      fits(from[i], n, inputs[i], "inputs must have shapes (n, *shape)");
      space->inputs[i] = from[i].data();
    }
    for (size_t i = 0; i < to.size(); ++i) {
      fits(to[i], n, outputs[i], "outputs must have shapes (n, *shape)");
      const Extent mine = extent(to[i]);
      for (const auto &other : from)
        require(!mine.meets(extent(other)), "outputs must not lie where inputs do");
      for (size_t j = 0; j < i; ++j)
        require(!mine.meets(extent(to[j])), "outputs must not overlap");
      space->outputs[i] = to[i].data();
    }
    if (!n) return;
    nb::gil_scoped_release release;
    threads = sensible(threads, work * double(n), PROGRAM);
    if (by_items(steps, work, n, 1, threads)) {
      threads = std::min(threads, n);
      space->make(threads, arena);
      Pool::run(threads, [&](size_t part) {
        for (size_t i = n * part / threads; i < n * (part + 1) / threads; ++i)
          for (const Step &step : steps)
            execute(step, {*space, space->arenas[part]->data(), i}, 0, 1);
      });
      return;
    }
    space->make(1, arena);
    for (size_t i = 0; i < n; ++i)
      for (const Step &step : steps) {
        const size_t parts = sensible(threads, step.work, STEP);
        const Place place{*space, space->arenas[0]->data(), i};
        Pool::run(parts, [&](size_t part) { execute(step, place, part, parts); });
      }
  }

  // Bytes of tables and buffers; the matrices tell theirs themselves.
  size_t bytes() const { return 4 * (numbers + arena); }

 private:
  struct Step {
    Op op;
    Activation activation;
    size_t channels, height, width;
    Value from, other, to;
    double work;
    // of copies
    size_t step;
    // of products
    const SparseMatrix *matrix;
    const int32_t *table;
    const int32_t *wanted;
    size_t pitch, positions, panel;
    bool few, line;
    // of pools
    bool most, padded;
    Windows down, across;
  };

  template <typename A>
  static size_t leading(const A &a) {
    require(a.ndim() > 0, "inputs and outputs must have a dimension for images");
    return a.shape(0);
  }
  template <typename A>
  static void fits(const A &a, size_t n, const Numbers &shape, const char *what) {
    bool same = a.ndim() == shape.size() + 1 && a.shape(0) == n;
    for (size_t i = 0; same && i < shape.size(); ++i) same = a.shape(i + 1) == size_t(shape[i]);
    require(same && reinterpret_cast<uintptr_t>(a.data()) % sizeof(float) == 0, what);
  }
  template <typename A>
  static Extent extent(const A &a) {
    return {a.data(), a.data() + a.size()};
  }

  static void shapes(const std::vector<Numbers> &given, std::vector<Numbers> &kept,
                     std::vector<size_t> &sizes) {
    for (const Numbers &shape : given) {
      double size = 1;
      for (const int64_t n : shape) {
        require(n >= 1, "shapes of inputs and outputs must be positive");
        size *= double(n);
      }
      require(size <= double(MOST), "inputs and outputs must be below 2^31 floats an image");
      sizes.push_back(size_t(size));
    }
    kept = given;
  }

  Value value(Reader &r, const char *name, bool written, bool optional) const {
    const std::string before(name);
    Value v{};
    v.kind = r.next((before + " kind").c_str(), optional ? none : buffer, output);
    r.check(!written || v.kind != input, "what is written must not be an input");
    if (v.kind == none) {
      for (const char *rest : {" index", " first", " plane", " pitch"})
        r.next((before + rest).c_str(), 0, 0);
      return v;
    }
    v.index = r.index((before + " index").c_str(), sizes[v.kind].size());
    v.first = size_t(r.next((before + " first").c_str(), 0, MOST));
    v.plane = size_t(r.next((before + " plane").c_str(), 0, MOST));
    v.pitch = size_t(r.next((before + " pitch").c_str(), 0, MOST));
    return v;
  }

  // Refuses a step that would leave its arrays, write twice, or read what it writes.
  void inside(const Reader &r, const Value &v, size_t last) const {
    r.check(last < sizes[v.kind][v.index], "what is read and written must lie inside");
  }
  static void separate(const Reader &r, const Value &v, size_t channels, size_t height,
                       size_t width) {
    r.check((height == 1 || v.pitch >= width) &&
                (channels == 1 || v.plane >= (height - 1) * v.pitch + width),
            "rows that are written, or read by windows and means, must not overlap");
  }
  void single(const Reader &r, const Step &s) const {
    separate(r, s.to, s.channels, s.height, s.width);
    inside(r, s.to, s.to.last(s.channels, s.height, s.width));
  }
  static bool apart(const Step &s, const Value &v, size_t last) {
    return v.kind != s.to.kind || v.index != s.to.index || last < s.to.first ||
           s.to.last(s.channels, s.height, s.width) < v.first;
  }
  void elementwise(const Reader &r, const Step &s, const Value &v) const {
    if (v.kind == none) return;
    const size_t last = v.last(s.channels, s.height, s.width);
    inside(r, v, last);
    const bool same = v.kind == s.to.kind && v.index == s.to.index && v.first == s.to.first &&
                      (s.channels == 1 || v.plane == s.to.plane) &&
                      (s.height == 1 || v.pitch == s.to.pitch);
    r.check(same || apart(s, v, last), "what is added must be the result, or lie elsewhere");
  }

  Step parse(Reader &r) {
    Step s{};
    s.op = Op(r.next("operation", int64_t(Op::copy), int64_t(Op::mean)));
    s.other.kind = none;
    if (s.op == Op::product)
      parse_product(r, s);
    else if (s.op == Op::add)
      parse_add(r, s);
    else if (s.op == Op::pool)
      parse_pool(r, s);
    else
      parse_copy(r, s);
    return s;
  }

  void parse_copy(Reader &r, Step &s) const {
    s.channels = r.size("channels");
    s.height = r.size("height");
    s.width = r.size("width");
    s.work = double(s.channels) * double(s.height) * double(s.width);
    s.from = value(r, "source", false, false);
    s.step = s.op == Op::copy ? r.size("step") : 1;
    s.to = value(r, "destination", true, false);
    const size_t last = s.from.last(s.channels, s.height, s.width, s.step);
    inside(r, s.from, last);
    if (s.op == Op::mean) {
      separate(r, s.from, s.channels, s.height, s.width);
      Step one = s;  // what is written is a number for each channel
      one.height = one.width = 1;
      single(r, one);
      r.check(apart(one, s.from, last), "what is read must not lie where is written");
      return;
    }
    single(r, s);
    r.check(apart(s, s.from, last), "what is read must not lie where is written");
  }

  void parse_add(Reader &r, Step &s) const {
    s.activation = r.activation();
    s.channels = r.size("channels");
    s.height = r.size("height");
    s.width = r.size("width");
    s.work = 2 * double(s.channels) * double(s.height) * double(s.width);
    s.from = value(r, "source", false, false);
    s.other = value(r, "other", false, true);
    s.to = value(r, "destination", true, false);
    single(r, s);
    elementwise(r, s, s.from);
    elementwise(r, s, s.other);
  }

  void parse_pool(Reader &r, Step &s) const {
    s.most = r.next("pooling", 0, 1) == 0;
    s.padded = r.next("whether padding counts", 0, 1) == 1;
    s.channels = r.size("channels");
    for (Windows *w : {&s.down, &s.across}) {
      w->kernel = size_t(r.next("kernel", 1, 1 << 15));
      w->stride = size_t(r.next("stride", 1, 1 << 15));
      w->padding = size_t(r.next("padding", 0, int64_t(w->kernel) - 1));
      w->in = r.size("source size");
      w->out = r.size("size");
      r.check((w->out - 1) * w->stride < w->in + w->padding,
              "windows must begin inside or in the padding before");
    }
    s.height = s.down.out;
    s.width = s.across.out;
    s.work = double(s.channels) * double(s.height) * double(s.width) *
             double(std::min(s.down.kernel, s.down.in)) *
             double(std::min(s.across.kernel, s.across.in));
    s.from = value(r, "source", false, false);
    s.to = value(r, "destination", true, false);
    const size_t last = s.from.last(s.channels, s.down.in, s.across.in);
    inside(r, s.from, last);
    separate(r, s.from, s.channels, s.down.in, s.across.in);
    single(r, s);
    r.check(apart(s, s.from, last), "what is read must not lie where is written");
  }

  void parse_product(Reader &r, Step &s) {
    s.matrix = &matrices[r.index("matrix", matrices.size())];
    const std::vector<int32_t> &table = tables[r.index("table", tables.size())];
    s.from.kind = buffer;
    s.from.index = r.index("source", starts.size());
    s.pitch = r.size("grid pitch");
    s.height = r.size("height");
    s.width = r.size("width");
    s.to = value(r, "destination", true, false);
    s.other = value(r, "residual", false, true);
    s.channels = s.matrix->w.n_out;
    r.check(s.height == 1 || s.pitch >= s.width, "grid pitch must be at least width");
    if (s.height == 1) {  // then no pitch means anything
      s.pitch = s.to.pitch = s.width;
      if (s.other.kind != none) s.other.pitch = s.width;
    }
    single(r, s);
    elementwise(r, s, s.other);
    r.check(table.size() == size_t(s.matrix->w.starts[s.matrix->w.runs]),
            "table must have an entry for each of the matrix");
    const uint64_t positions = uint64_t(s.height - 1) * s.pitch + s.width;
    r.check(positions <= uint64_t(MOST), "positions must be below 2^31");
    s.positions = size_t(positions);
    if (!table.empty()) {
      const auto [low, high] = std::minmax_element(table.begin(), table.end());
      r.check(*low >= 0, "table must not be negative");
      Value met = s.from;
      met.first = size_t(*low);
      const size_t last = size_t(*high) + s.positions - 1;
      inside(r, met, last);
      r.check(apart(s, met, last), "what is read must not lie where is written");
    }
    s.table = table.data();
    const SparseMatrix &m = *s.matrix;
    s.work = double(m.w.starts[m.w.runs]) * double(m.w.height) * double(s.positions) / 4;
    s.few = s.positions <= level.few[m.log_height];
    s.panel = m.panel_vectors(s.positions) * level.lanes;
    s.line = s.positions == 1 && s.to.plane == 1 &&
             (s.other.kind == none || s.other.plane == 1);
    if (s.height > 1 && s.pitch > s.width && s.to.pitch == s.pitch &&
        (s.other.kind == none || s.other.pitch == s.pitch))
      s.wanted = mask(s);
  }

  // Ones in all bits of the positions that are wanted; products of one grid share it.
  const int32_t *mask(const Step &s) {
    for (const Mask &m : masks)
      if (m.pitch == s.pitch && m.width == s.width && m.height >= s.height)
        return m.bits.data();
    masks.push_back({s.pitch, s.width, s.height, {}});
    std::vector<int32_t> &bits = masks.back().bits;
    bits.resize(s.positions + SLACK);
    for (size_t t = 0; t < s.positions; ++t) bits[t] = t % s.pitch < s.width ? -1 : 0;
    numbers += bits.size();
    return bits.data();
  }

  // Where the values of one image are.
  struct Place {
    const Space &space;
    float *arena;
    size_t image;
  };

  const float *read(const Value &v, const Place &p) const {
    if (v.kind == none) return nullptr;
    if (v.kind != input) return write(v, p);
    return p.space.inputs[v.index] + p.image * sizes[input][v.index] + v.first;
  }
  float *write(const Value &v, const Place &p) const {
    if (v.kind == buffer) return p.arena + starts[v.index] + v.first;
    return p.space.outputs[v.index] + p.image * sizes[output][v.index] + v.first;
  }

  // A part of a step.
  void execute(const Step &s, const Place &p, size_t part, size_t parts) const {
    const float *from = read(s.from, p), *other = read(s.other, p);
    float *to = write(s.to, p);
    if (s.op == Op::product) return multiply(s, from, other, to, part, parts);
    const size_t low = s.channels * part / parts, high = s.channels * (part + 1) / parts;
    from += low * s.from.plane;
    to += low * s.to.plane;
    if (s.op == Op::mean)
      return mean_planes(from, high - low, s.from.plane, s.height, s.width, s.from.pitch, to,
                         s.to.plane);
    if (s.op == Op::copy)
      return copy_planes(from, {s.from.plane, s.from.pitch, s.step}, high - low, s.height,
                         s.width, to, {s.to.plane, s.to.pitch, 1});
    if (other) other += low * s.other.plane;
    for (size_t c = low; c < high; ++c) {
      if (s.op == Op::pool)
        pool(s, from, to);
      else
        for (size_t i = 0; i < s.height; ++i)
          level.add(from + i * s.from.pitch, other ? other + i * s.other.pitch : nullptr,
                    s.width, s.activation, to + i * s.to.pitch);
      from += s.from.plane;
      to += s.to.plane;
      if (other) other += s.other.plane;
    }
  }

  void multiply(const Step &s, const float *x, const float *residual, float *y, size_t part,
                size_t parts) const {
    const SparseMatrix &m = *s.matrix;
    Panel<float> panel{};
    panel.at = s.table;
    panel.ld = 1;
    panel.few = s.few;
    panel.y = y;
    panel.residual = residual;
    panel.ldy = ptrdiff_t(s.to.plane);
    panel.ldr = ptrdiff_t(s.other.plane);
    panel.row = ptrdiff_t(s.to.pitch);
    panel.residual_row = ptrdiff_t(s.other.pitch);
    panel.order = s.line ? Order::tokens : Order::image;
    // many panels are shared among the threads, few are cut by rows
    const size_t panels = (s.positions + s.panel - 1) / s.panel;
    const bool whole = panels >= 2 * parts;
    const auto [low, high] = whole ? m.share(0, 1) : m.share(part, parts);
    const size_t first = whole ? panels * part / parts : 0;
    const size_t last = whole ? panels * (part + 1) / parts : panels;
    for (size_t i = first; i < last; ++i) {
      const size_t t = i * s.panel;
      panel.x = x + t;
      panel.positions = std::min(s.panel, s.positions - t);
      panel.grid = {t, s.pitch, s.width, s.height, s.wanted};
      level.slices(m.w, panel, low, high);
    }
  }

  // A channel, line by line: each position of the window over all windows of a line.
  void pool(const Step &s, const float *from, float *to) const {
    for (size_t i = 0; i < s.height; ++i) {
      float *line = to + i * s.to.pitch;
      std::fill_n(line, s.width, s.most ? -std::numeric_limits<float>::infinity() : 0.0f);
      const auto [top, bottom] = s.down.inside(i);
      for (size_t y = top; y < bottom; ++y)
        for (size_t k = 0; k < s.across.kernel; ++k) {
          const auto [low, high] = s.across.reach(k);
          if (low == high) continue;
          const size_t x = low * s.across.stride + k - s.across.padding;
          (s.most ? most_line : sum_line)(from + y * s.from.pitch + x, high - low,
                                          s.across.stride, line + low);
        }
      if (s.most) continue;
      const size_t rows = s.down.count(i, s.padded);
      for (size_t j = 0; j < s.width; ++j)
        line[j] /= float(rows * s.across.count(j, s.padded));
    }
  }

  struct Mask {
    size_t pitch, width, height;
    std::vector<int32_t> bits;
  };

  const Matrices matrices;
  const Level &level;
  std::vector<std::vector<int32_t>> tables;
  std::vector<size_t> starts;    // of the buffers in an arena
  std::vector<size_t> sizes[3];  // of buffers, inputs and outputs
  std::vector<Numbers> inputs, outputs;
  std::vector<Mask> masks;
  std::vector<Step> steps;
  size_t arena = 0, numbers = 0;
  double work = 0;
  mutable Spare<Space> spare;
};

// Steps by panels of tokens: a buffer holds its features one behind the other, each at all
// tokens of a panel. One token is a line.
class TokenProgram {
 public:
  TokenProgram(std::vector<nb::object> objects, const Numbers &buffers, const Numbers &inputs,
               const Numbers &outputs, const std::vector<Numbers> &steps_)
      : matrices(std::move(objects)), level(matrices.level()) {
    const Numbers *const all[3] = {&buffers, &inputs, &outputs};
    for (size_t kind = 0; kind < 3; ++kind)
      for (const int64_t n : *all[kind]) {
        require(n >= 1 && n <= MOST, "features must be from 1 to 2^31 - 1");
        features[kind].push_back(size_t(n));
      }
    steps.reserve(steps_.size());
    for (size_t i = 0; i < steps_.size(); ++i) {
      Reader reader(steps_[i], i);
      steps.push_back(parse(reader));
      reader.done();
      work += steps.back().work;
    }
    lent.assign(features[buffer].size(), -1);
    std::vector<size_t> writes(features[buffer].size());
    for (const Step &s : steps)
      if (s.to.kind == buffer) ++writes[s.to.index];
    for (const Step &s : steps)
      if (s.op == Op::pack && writes[s.to.index] == 1)
        lent[s.to.index] = int64_t(s.from.index);
    size_t sum = 0;
    for (const size_t n : features[buffer]) {
      before.push_back(sum);
      sum += n;
    }
    before.push_back(sum);
    for (size_t i = 0; i < matrices.size(); ++i)
      most_few = std::min(most_few, level.few[matrices[i].log_height]);
  }

  void run(const std::vector<nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>> &from,
           const std::vector<nb::ndarray<float, nb::ndim<2>, nb::device::cpu>> &to,
           size_t threads) const {
    require(from.size() == features[input].size(), "inputs must be as many as the program has");
    require(to.size() == features[output].size(), "outputs must be as many as the program has");
    const size_t n = !from.empty() ? from[0].shape(0) : !to.empty() ? to[0].shape(0) : 0;
    Spare<Space>::Held space(spare);
    space->inputs.resize(from.size());
    space->outputs.resize(to.size());
    space->input_lines.resize(from.size());
    space->output_lines.resize(to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      fits(from[i], n, features[input][i], "inputs must have shapes (n, features), in lines");
      space->inputs[i] = from[i].data();
      space->input_lines[i] = n > 1 ? ptrdiff_t(from[i].stride(0)) : 0;
    }
    for (size_t i = 0; i < to.size(); ++i) {
      fits(to[i], n, features[output][i], "outputs must have shapes (n, features), in lines");
      space->outputs[i] = to[i].data();
      space->output_lines[i] = n > 1 ? ptrdiff_t(to[i].stride(0)) : 0;
      require(n <= 1 || size_t(to[i].stride(0)) >= features[output][i],
              "the lines of outputs must not overlap");
      const Extent mine = extent(to[i]);
      for (const auto &other : from)
        require(!mine.meets(extent(other)), "outputs must not lie where inputs do");
      for (size_t j = 0; j < i; ++j)
        require(!mine.meets(extent(to[j])), "outputs must not overlap");
    }
    if (!n) return;
    nb::gil_scoped_release release;
    threads = sensible(threads, work * double(n), PROGRAM);
    const size_t width = panel_width(n), panels = (n + width - 1) / width;
    const size_t floats = arena(std::max(width, WIDEST));
    const auto place = [&](size_t part, size_t panel) {
      const size_t first = panel * width;
      return Place{*space, space->arenas[part]->data(), first, std::min(width, n - first),
                   width};
    };
    if (by_items(steps, work * double(width), panels, width, threads)) {
      threads = std::min(threads, panels);
      space->make(threads, floats);
      Pool::run(threads, [&](size_t part) {
        for (size_t i = panels * part / threads; i < panels * (part + 1) / threads; ++i)
          for (const Step &step : steps) execute(step, place(part, i), 0, 1);
      });
      return;
    }
    space->make(1, floats);
    for (size_t i = 0; i < panels; ++i)
      for (const Step &step : steps) {
        const Place at = place(0, i);
        const size_t parts = sensible(threads, step.work * double(at.positions), STEP);
        Pool::run(parts, [&](size_t part) { execute(step, at, part, parts); });
      }
  }

  // Bytes of the buffers of the widest panel; the matrices tell theirs themselves.
  size_t bytes() const { return 4 * arena(WIDEST); }

 private:
  static constexpr size_t WIDEST = 48;  // tokens; half of it and twice it is not faster

  struct Value {
    int64_t kind;
    size_t index;
  };
  struct Step {
    Op op;
    Activation activation;
    Value from, other, to;
    const SparseMatrix *matrix;
    double work;
  };
  struct Place {
    const Space &space;
    float *arena;
    size_t first, positions, width;
  };

  template <typename A>
  static void fits(const A &a, size_t n, size_t width, const char *what) {
    require(a.shape(0) == n && a.shape(1) == width && (!n || width == 1 || a.stride(1) == 1) &&
                (n <= 1 || a.stride(0) >= 0) &&
                reinterpret_cast<uintptr_t>(a.data()) % sizeof(float) == 0,
            what);
  }
  template <typename A>
  static Extent extent(const A &a) {
    if (!a.shape(0)) return {nullptr, nullptr};
    const size_t step = a.shape(0) > 1 ? size_t(a.stride(0)) : 0;
    return {a.data(), a.data() + (a.shape(0) - 1) * step + a.shape(1)};
  }

  size_t arena(size_t width) const { return before.back() * width + before.size() * SLACK; }

  size_t panel_width(size_t n) const {
    if (n == 1) return 1;
    if (n <= most_few) return n <= 4 ? 4 : 8;
    const size_t vectors = (n + level.lanes - 1) / level.lanes, most = WIDEST / level.lanes;
    const size_t panels = (vectors + most - 1) / most;
    return (vectors + panels - 1) / panels * level.lanes;
  }

  Value value(Reader &r, const char *name, int64_t low, int64_t high) const {
    Value v{};
    v.kind = r.next((std::string(name) + " kind").c_str(), low, high);
    const std::string index = std::string(name) + " index";
    if (v.kind == none)
      r.next(index.c_str(), 0, 0);
    else
      v.index = r.index(index.c_str(), features[v.kind].size());
    return v;
  }
  Value of(Reader &r, Where kind, const char *name) const {
    return {kind, r.index(name, features[kind].size())};
  }
  size_t wide(const Value &v) const { return features[v.kind][v.index]; }

  Step parse(Reader &r) const {
    Step s{};
    s.op = Op(r.next("operation", 0, int64_t(Op::unpack)));
    s.other.kind = none;
    if (s.op == Op::product) {
      s.matrix = &matrices[r.index("matrix", matrices.size())];
      s.from = of(r, buffer, "source");
      s.to = value(r, "destination", buffer, output);
      r.check(s.to.kind != input, "what is written must not be an input");
      s.other = value(r, "residual", none, input);
      const Weights &w = s.matrix->w;
      r.check(s.other.kind == none || (s.other.kind == buffer) == (s.to.kind == buffer),
              "residual must be a buffer for a buffer, and an input for an output");
      r.check(s.to.kind != buffer || s.to.index != s.from.index,
              "what is read must not be what is written");
      r.check(wide(s.from) == w.n_in && wide(s.to) == w.n_out &&
                  (s.other.kind == none || wide(s.other) == w.n_out),
              "features must be those of the matrix");
      s.work = double(w.starts[w.runs]) * double(w.height) / 4;
      return s;
    }
    if (s.op == Op::pack) {
      s.from = of(r, input, "input");
      s.to = of(r, buffer, "buffer");
    } else if (s.op == Op::unpack) {
      s.from = of(r, buffer, "buffer");
      s.to = of(r, output, "output");
    } else {
      r.check(s.op == Op::add, "operation must be one on tokens");
      s.activation = r.activation();
      s.from = of(r, buffer, "source");
      s.other = value(r, "other", none, buffer);
      s.to = of(r, buffer, "destination");
    }
    r.check(wide(s.from) == wide(s.to) && (s.other.kind == none || wide(s.other) == wide(s.to)),
            "features must be the same");
    s.work = 2 * double(wide(s.to));
    return s;
  }

  // The begin of a value's panel, and the distance of its features, or of its tokens where
  // it is an array.
  struct Lines {
    const float *begin;
    ptrdiff_t step;
  };
  Lines read(const Value &v, const Place &p) const {
    if (v.kind == none) return {nullptr, 0};
    if (v.kind == buffer && !(p.width == 1 && lent[v.index] >= 0))
      return {write(v, p), ptrdiff_t(p.width)};
    const size_t i = v.kind == buffer ? size_t(lent[v.index]) : v.index;
    const ptrdiff_t step = p.space.input_lines[i];
    return {p.space.inputs[i] + ptrdiff_t(p.first) * step, step};
  }
  float *write(const Value &v, const Place &p) const {
    if (v.kind == buffer) return p.arena + before[v.index] * p.width + v.index * SLACK;
    return p.space.outputs[v.index] + ptrdiff_t(p.first) * p.space.output_lines[v.index];
  }

  void execute(const Step &s, const Place &p, size_t part, size_t parts) const {
    const Lines from = read(s.from, p), other = read(s.other, p);
    float *to = write(s.to, p);
    const ptrdiff_t step =
        s.to.kind == buffer ? ptrdiff_t(p.width) : p.space.output_lines[s.to.index];
    if (s.op == Op::product) return multiply(s, p, from, other, to, step, part, parts);
    // whole strips of features
    const size_t n = wide(s.to), strips = (n + STRIP - 1) / STRIP;
    const size_t low = strips * part / parts * STRIP;
    const size_t high = std::min(n, strips * (part + 1) / parts * STRIP);
    if (low >= high) return;
    if (s.op == Op::add) {
      const size_t begin = low * p.width;
      level.add(from.begin + begin, other.begin ? other.begin + begin : nullptr,
                (high - low) * p.width, s.activation, to + begin);
    } else if (p.width == 1) {
      if (s.op != Op::pack || lent[s.to.index] < 0)
        std::memcpy(to + low, from.begin + low, (high - low) * sizeof(float));
    } else if (s.op == Op::pack) {
      level.pack_tokens(from.begin, from.step, p.positions, low, high, to, p.width);
    } else {
      level.unpack_tokens(from.begin + low * p.width, p.width, high - low, p.positions,
                          to + low, step);
    }
  }

  void multiply(const Step &s, const Place &p, const Lines &from, const Lines &other, float *to,
                ptrdiff_t step, size_t part, size_t parts) const {
    const SparseMatrix &m = *s.matrix;
    const auto [low, high] = m.share(part, parts);
    const bool by_tokens = s.to.kind == output || p.width == 1;
    const size_t lanes = level.lanes;
    Panel<float> panel{};
    panel.at = m.columns.data();
    panel.ld = ptrdiff_t(p.width);
    panel.few = p.positions <= level.few[m.log_height];
    panel.order = by_tokens ? Order::tokens : Order::features;
    panel.ldy = step;
    panel.ldr = other.step;
    // of buffers whole vectors are written
    size_t positions = p.positions;
    if (!by_tokens && p.width < lanes) positions = p.width;
    if (!by_tokens && p.width >= lanes && !panel.few)
      positions = (positions + lanes - 1) / lanes * lanes;
    const size_t width = panel.few ? positions : m.panel_vectors(positions) * lanes;
    for (size_t t = 0; t < positions; t += width) {
      const ptrdiff_t skipped = ptrdiff_t(t) * (by_tokens ? step : 1);
      panel.x = from.begin + t;
      panel.positions = std::min(width, positions - t);
      panel.y = to + skipped;
      if (other.begin)
        panel.residual = other.begin + ptrdiff_t(t) * (by_tokens ? other.step : 1);
      level.slices(m.w, panel, low, high);
    }
  }

  const Matrices matrices;
  const Level &level;
  std::vector<size_t> features[3];  // of buffers, inputs and outputs
  std::vector<size_t> before;       // features of the buffers before each
  std::vector<int64_t> lent;        // the input that a buffer is at one token, or -1
  std::vector<Step> steps;
  size_t most_few = 8;
  double work = 0;
  mutable Spare<Space> spare;
};

}  // namespace

void bind_program(nb::module_ &module) {
  using Tables = std::vector<Vector<int32_t>>;
  using Lists = std::vector<Numbers>;
  nb::class_<ImageProgram>(module, "ImageProgram")
      .def(nb::init<std::vector<nb::object>, Tables, const Numbers &, const Lists &,
                    const Lists &, const Lists &>(),
           nb::arg("matrices"), nb::arg("tables").noconvert(), nb::arg("buffers"),
           nb::arg("inputs"), nb::arg("outputs"), nb::arg("steps"))
      .def("run", &ImageProgram::run, nb::arg("inputs").noconvert(),
           nb::arg("outputs").noconvert(), nb::arg("threads") = 1)
      .def_prop_ro("nbytes", &ImageProgram::bytes);
  nb::class_<TokenProgram>(module, "TokenProgram")
      .def(nb::init<std::vector<nb::object>, const Numbers &, const Numbers &, const Numbers &,
                    const Lists &>(),
           nb::arg("matrices"), nb::arg("buffers"), nb::arg("inputs"), nb::arg("outputs"),
           nb::arg("steps"))
      .def("run", &TokenProgram::run, nb::arg("inputs").noconvert(),
           nb::arg("outputs").noconvert(), nb::arg("threads") = 1)
      .def_prop_ro("nbytes", &TokenProgram::bytes);
}
