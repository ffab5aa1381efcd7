// Products of a matrix that is stored by columns of a few rows with activations.
//
// Rows come in runs of `height`, and of each run only some columns are stored: entry e
// holds the `height` weights of column columns[e]. A block of several columns is several
// entries, and one of more rows than 16 is several runs.
//
// Numbers are of single precision, or bfloat16: then entries are pairs of columns that
// follow one another, held as the words of 32 bits that they are, and sums are single.
// Tokens and results are of bfloat16 too, or both of single precision: then tokens are
// rounded to bfloat16 while they are packed, and nothing else is.
// Or they are signed bytes with a scale for each row, and entries are quads of columns.
// Tokens are then rounded to bytes with a scale each while they are packed, and sums are
// whole numbers until they are finished.
//
// Work goes by panels of positions (tokens or pixels) and by groups of 64 rows. The sums
// of a group over a panel stay in the first-level cache until they are finished: bias,
// residual and activation are added, and they are written in the order that is wanted.
#pragma once

#include <cstddef>
#include <cstdint>

namespace blocksparse {

constexpr size_t SLICE = 16;  // rows that one thread sums
constexpr size_t GROUP = 64;  // most rows whose sums are finished together
constexpr size_t STRIP = 64;  // features of a token that are packed at once
constexpr size_t PANEL = 64;  // most positions of a panel, whatever the instruction set

enum class Activation { none, relu, gelu, silu };
enum class Order { tokens, features, image };
enum class Kind { single, pair, quad };

// Columns that an entry holds.
constexpr size_t columns_of(Kind kind) {
  return kind == Kind::single ? 1 : kind == Kind::pair ? 2 : 4;
}

struct Weights {
  const int64_t *starts;   // of the entries of each run of rows
  const float *values;     // (entries, height), numbers or words
  const float *bias;       // of whole slices, as is what follows
  const float *scales;     // of bytes, of rows
  const uint32_t *excess;  // of sums of bytes: they meet tokens to which 128 was added
  size_t n_out, n_in, runs, height;
  Activation activation;
};

// Where position t of a panel of an image lies in the result: as flattened rows of `pitch`
// positions of which the first `width` are wanted. Where `wanted` is given, it has ones in
// all bits of those, from position `first` on, and whole vectors may be read of it.
struct Grid {
  size_t first, pitch, width, height;
  const int32_t *wanted;
};

// Number is float or uint16_t, for bfloat16.
template <typename Number>
struct Panel {
  const float *x;          // the feature, or word, of an entry e at x + at[e] * ld
  const int32_t *at;
  ptrdiff_t ld;
  size_t positions;
  bool few;                // weights as vectors, positions one by one
  Number *y;               // one position or feature `ldy` behind the other
  const Number *residual;  // likewise, or null
  ptrdiff_t ldy, ldr, row, residual_row;  // the latter two between rows of an image
  Order order;
  Grid grid;
  const float *scales;     // of bytes, of positions
};

// The loops for one instruction set.
struct Level {
  const char *name;
  size_t lanes;                // floats of a vector
  size_t most[5];              // vectors of a panel for heights 1, 2, 4, 8 and 16
  size_t few[5];               // positions up to which they are taken one by one
  bool (*present)();
  void (*slices)(const Weights &, const Panel<float> &, size_t first, size_t last);
  void (*slices_half)(const Weights &, const Panel<uint16_t> &, size_t first, size_t last);
  void (*slices_mixed)(const Weights &, const Panel<float> &, size_t first, size_t last);
  void (*slices_bytes)(const Weights &, const Panel<float> &, size_t first, size_t last);
  // Features [first, last) of tokens, or of features, that lie `ldx` behind one another, into
  // a panel; positions that are not there become zero.
  void (*pack_tokens)(const float *x, ptrdiff_t ldx, size_t positions, size_t first,
                      size_t last, float *panel, size_t width);
  void (*pack_features)(const float *x, ptrdiff_t ldx, size_t positions, size_t first,
                        size_t last, float *panel, size_t width);
  // Words [first, last) of tokens of n_in features that are rounded to bfloat16.
  void (*pack_halves)(const float *x, ptrdiff_t ldx, size_t tokens, size_t n_in, size_t first,
                      size_t last, float *panel, size_t width);
  // The scales of tokens, and their inverses.
  void (*measure)(const float *x, ptrdiff_t ldx, size_t tokens, size_t n_in, float *scales,
                  float *inverses);
  // Words [first, last) of tokens of n_in features that are rounded to bytes.
  void (*pack_bytes)(const float *x, ptrdiff_t ldx, size_t tokens, size_t n_in,
                     const float *inverses, size_t first, size_t last, float *panel,
                     size_t width);
  // The way back: features of a panel to lines that lie `ldy` behind one another.
  void (*unpack_tokens)(const float *panel, size_t width, size_t features, size_t positions,
                        float *y, ptrdiff_t ldy);
  // The sum of two lines, or one, with an activation; the result may be either of them.
  void (*add)(const float *a, const float *b, size_t n, Activation, float *to);
};

const Level *levels(size_t &count);

}  // namespace blocksparse
