// The only door to the kernels: plain structs and one table of functions, chosen once for the
// machine.
//
// Every function is pure over its arguments and thread-safe. The instruction sets give the same
// bits (numerics.md: fixed accumulators, exact integer dots, no contraction), and a token's result
// does not depend on the other tokens of the call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gguf/layout.h"

namespace smallmind {

// Weights in panels of 16 rows (quant/panel.h).
struct PackedMatrix {
  gguf::TensorType type = gguf::TensorType::kF32;
  size_t n_rows = 0;     // outputs
  size_t n_columns = 0;  // inputs
  size_t panel_bytes = 0;
  const std::byte* panels = nullptr;  // 64-byte aligned

  size_t n_panels() const { return (n_rows + 15) / 16; }
};

// The inputs of a product for some tokens: as floats, and quantised in blocks of 32.
struct Activations {
  float* values = nullptr;       // [n_tokens][n_columns]; read by float formats
  int8_t* codes = nullptr;       // [n_tokens][n_columns]
  float* scales = nullptr;       // d, [n_tokens][n_columns / 32]
  float* scaled_sums = nullptr;  // fl(d * sum of the block's codes), likewise
  // Minus the sums of the codes of columns 0-15 and 16-31, [n_tokens][n_columns / 32][2], and minus
  // both: what an offset of the weights' codes adds to a dot, but for a shift.
  int32_t* minus_half_sums = nullptr;
  int32_t* minus_sums = nullptr;  // [n_tokens][n_columns / 32]
  size_t n_columns = 0;

  // Fine inputs have two planes: the code is 128 * codes + low_codes (low -64 ... 64), d = amax /
  // 16,256, scaled_sums are of the whole code. Null: one plane.
  int8_t* low_codes = nullptr;
  int32_t* low_minus_half_sums = nullptr;
  int32_t* low_minus_sums = nullptr;
};

// The inputs from a column on, counted over all tokens.
[[gnu::always_inline]] inline Activations columns_from(Activations a, size_t column) {
  const size_t blocks = column / 32;
  a.values += column;
  a.codes += column;
  a.scales += blocks;
  a.scaled_sums += blocks;
  a.minus_half_sums += 2 * blocks;
  a.minus_sums += blocks;
  if (a.low_codes != nullptr) {
    a.low_codes += column;
    a.low_minus_half_sums += 2 * blocks;
    a.low_minus_sums += blocks;
  }
  return a;
}

// The inputs of tokens from `token` on.
[[gnu::always_inline]] inline Activations tokens_from(Activations a, size_t token) {
  return columns_from(a, token * a.n_columns);
}

enum class Rope : uint8_t {
  kAdjacent,
  kHalves
};  // which two elements of a head turn together: (2i, 2i + 1), or (i, i + n / 2)
enum class Activation : uint8_t { kSilu, kGeluTanh };

inline constexpr size_t kMaxTileQueries = 32;
inline constexpr size_t kPieceKeys = 64;  // attention folds pieces of 64 keys from left to right
inline constexpr size_t kPageKeys = 32;
inline constexpr size_t kMaxHeadDim = 512;

// How a page's region holds 32 keys, or 32 values, of one head.
//   kBf16: keys [head_dim / 2][32 keys][2], values [16][head_dim][2 keys], bfloat16.
//   kQ8_0: codes (int8) in the same orders, then the scales [head_dim / 32][32 keys], bfloat16.
//          REQUIRES: head_dim a multiple of 32.
// Regions start at multiples of 64 bytes. (Always inline: no instruction set may define what
// another would call, P-16.)
enum class KvFormat : uint8_t { kBf16, kQ8_0 };
[[gnu::always_inline]] constexpr size_t kv_region_bytes(KvFormat format, size_t head_dim) {
  return format == KvFormat::kBf16 ? kPageKeys * head_dim * 2
                                   : kPageKeys * (head_dim + head_dim / 32 * 2);
}

// Attention of up to kMaxTileQueries queries that read the same keys and values. Query i sees keys
// [begin[i], end[i]), begin < end; pages that no query sees are not touched.
struct AttentionTile {
  size_t n_queries = 0;
  const float* queries[kMaxTileQueries] = {};  // [head_dim] each, values exact in bfloat16
  int64_t begin[kMaxTileQueries] = {};
  int64_t end[kMaxTileQueries] = {};
  float* out[kMaxTileQueries] = {};  // [head_dim] each
  KvFormat format = KvFormat::kBf16;
  const std::byte* const* pages = nullptr;
  size_t k_offset = 0;  // of this layer's and head's keys in a page
  size_t v_offset = 0;  // and values
  // Keys of two pages that are fetched while the last piece is computed, their values as far behind
  // them as v_offset is behind k_offset; null: none.
  const std::byte* after[2] = {};
  size_t head_dim = 0;
  float scale = 1;    // of the dot products
  float softcap = 0;  // 0: none, else cap * tanh(score / cap)

  // In parts: only the pieces [first_piece, first_piece + n_pieces) are computed, all of which
  // every query sees, and each leaves a part in out[i], one behind the other: its maximum, its sum,
  // nothing up to 16 floats, its unnormalised output. fold_parts() gives what the whole would have.
  bool in_parts = false;
  int64_t first_piece = 0;
  int64_t n_pieces = 0;
};
[[gnu::always_inline]] constexpr size_t part_floats(size_t head_dim) { return 16 + head_dim; }

struct Kernels {
  const char* name;
  // With as many tokens for each thread, times the number of threads, products by tokens are as
  // fast as products by panels: each thread reads all weights then, and all share the way to
  // memory.
  size_t least_part_tokens;
  // How large the codes of either plane are, at most, that coarse_maxima takes: 127, or 64.
  int coarse_limit;

  // Quantises tokens [first, first + n) of a.values: d = amax / 127, code = rne(x * (127 / amax));
  // d = 0 below 2^-100, NaN if an input is not finite.
  void (*quantize)(const Activations& a, size_t first, size_t n);
  // The same with two planes. REQUIRES: a.low_codes.
  void (*quantize_fine)(const Activations& a, size_t first, size_t n);
  // As quantize, for blocks [first_block, first_block + n_blocks) of one token.
  void (*quantize_blocks)(const Activations& a, size_t token, size_t first_block, size_t n_blocks);
  // out[token][row] for tokens [0, n_tokens) and the rows of panels [first_panel, first_panel +
  // n_panels); rows stand at their own index, out_stride floats between tokens.
  void (*matmul)(const PackedMatrix& w, size_t first_panel, size_t n_panels, const Activations& a,
                 size_t n_tokens, float* out, size_t out_stride);
  // out[token * out_stride + panel] = the highest of the panel's products with the upper plane of
  // the inputs alone but for the blocks that are fine, where both enter; scales are of the codes
  // that do. The order of the sums is matmul's. REQUIRES: a format of codes, a.low_codes, codes of
  // both planes within coarse_limit.
  void (*coarse_maxima)(const PackedMatrix& w, size_t first_panel, size_t n_panels,
                        const Activations& a, const bool* is_fine, size_t n_tokens, float* out,
                        size_t out_stride);
  // out = x / sqrt(mean(x^2) + eps) * weight; out may be x.
  void (*rms_norm)(const float* x, const float* weight, size_t n, float eps, float* out);
  // gate = act(gate) * up
  void (*gated)(Activation activation, float* gate, const float* up, size_t n);
  // x += y
  void (*add)(float* x, const float* y, size_t n);
  // x *= factor
  void (*scale)(float* x, float factor, size_t n);
  // x = cap * tanh(x / cap)
  void (*softcap)(float* x, float cap, size_t n);
  // Turns the first n_rot elements of a head by the position's angles: cos and sin are [n_rot / 2].
  void (*rope)(Rope kind, float* head, size_t n_rot, const float* cos, const float* sin);
  // Rounds to bfloat16 (nearest, ties to even; below 2^-56 becomes 0) and keeps floats.
  void (*round_bf16)(float* x, size_t n);
  // Writes one key and one value into slot (0 ... 31) of a page's regions; at an even slot with
  // clear_next the odd neighbour's value becomes 0.
  void (*store_kv)(KvFormat format, const float* k, const float* v, size_t head_dim, size_t slot,
                   bool clear_next, std::byte* k_region, std::byte* v_region);
  void (*attention)(const AttentionTile& tile);
  // out = the n parts of one query, in order, folded and normalised. REQUIRES: n >= 1.
  void (*fold_parts)(const float* parts, size_t n, size_t head_dim, float* out);
  bool (*all_finite)(const float* x, size_t n);
  // The first index of the highest value. REQUIRES: n > 0, no NaN.
  size_t (*highest)(const float* x, size_t n);
  // The sum of exp((x - max) / temperature) in double, in blocks of 1,024 and lanes of 16, folded
  // in order. REQUIRES: x <= max, -infinity included; temperature > 0.
  double (*sum_of_exponentials)(const float* x, size_t n, float max, double temperature);
  // out[i] = the highest of x[16 i ... 16 i + 15], the last of what is left. REQUIRES: no NaN.
  void (*maxima)(const float* x, size_t n, float* out);
  // out[i] = the Euclidean norm of the longest row of panel first_panel + i, rounded up; infinite
  // where a weight is not finite and for formats whose blocks are not code * scale alone.
  void (*panel_norms)(const PackedMatrix& w, size_t first_panel, size_t n_panels, float* out);
};

// The table in use: the best that the machine has, or the one that SMALLMIND_ISA names. Throws
// Error(kInvalidArgument) when the name is unknown or this process cannot use it. Chosen at the
// first call.
const Kernels& kernels();
// One instruction set by name, null where this process cannot use it or none is called so: for
// tests.
const Kernels* kernels_by_name(const char* name);

}  // namespace smallmind
