#include "model/output_head.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "model/panel_shares.h"
#include "quant/panel.h"

namespace smallmind {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kWantedError = 2.0;     // of a logit: few tokens are so near to the best ones
constexpr size_t kBlocksOfAFineOne = 4;  // at least
constexpr size_t kBlockPanels = 16;      // of a maximum of maxima
constexpr size_t kMostFound = 1024;      // tokens that may reach the bound
constexpr float kUnderflow = 0x1p-100f;  // more than what becomes subnormal on the way can add

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

size_t bounds_of_a_row(size_t n_panels) {
  return round_up(n_panels, kBlockPanels) + round_up(n_panels, kBlockPanels) / kBlockPanels;
}

// Whether coarse products want codes of half the size.
bool wants_halves() { return kernels().coarse_limit < 127; }

// The codes of both planes, as one.
int32_t code_of(const Activations& a, size_t column) {
  return 128 * a.codes[column] + a.low_codes[column];
}

// The squared norm of block `at` of inputs, a's but for the codes: those are code(column).
template <class Fn>
double square_of(const Activations& a, size_t at, const Fn& code) {
  uint64_t sum = 0;
  for (size_t c = at * quant::kBlockColumns; c < (at + 1) * quant::kBlockColumns; ++c) {
    const int32_t x = code(c);
    sum += static_cast<uint32_t>(x * x);
  }
  return static_cast<double>(a.scales[at]) * static_cast<double>(a.scales[at]) *
         static_cast<double>(sum);
}

// Of values in blocks of 16 with their maxima, the n-th highest. REQUIRES: there are as many.
float nth_highest(std::span<const float> values, const float* block_maxima, size_t n) {
  std::array<float, kMaxRanks> storage;
  storage.fill(-kInfinity);
  const auto heap = std::span(storage).first(n);  // the n highest so far, the lowest of them first
  for (size_t block = 0; block * kBlockPanels < values.size(); ++block) {
    if (block_maxima[block] <= heap[0]) continue;
    const size_t end = std::min((block + 1) * kBlockPanels, values.size());
    for (size_t i = block * kBlockPanels; i < end; ++i) {
      if (values[i] <= heap[0]) continue;
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      heap.back() = values[i];
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
  return heap[0];
}

// What enters the coarse products of a step, but for the scales.
struct CoarseInputs {
  explicit CoarseInputs(const Step& step)
      : exact(step.ws.normed_fine.view()),
        codes(wants_halves() ? step.ws.head.halves.view() : exact),
        unit(wants_halves() ? 2 : 1) {}

  // The squared norm of what they lack of block `at`.
  double square_left_out(size_t at, bool is_fine) const {
    return square_of(exact, at, [&](size_t c) {
      return code_of(exact, c) - unit * (is_fine ? code_of(codes, c) : 128 * codes.codes[c]);
    });
  }

  Activations exact, codes;
  int32_t unit;  // of their codes in the exact ones'
};

}  // namespace

HeadWorkspace::HeadWorkspace(size_t n_vocab, const ActivationRows& normed)
    : maxima(kMaxBatchSequences * bounds_of_a_row((n_vocab + 15) / 16)),
      scales(kMaxBatchSequences * (normed.view().n_columns / quant::kBlockColumns)),
      squares_left_out(normed.view().n_columns / quant::kBlockColumns),
      is_fine(normed.view().n_columns / quant::kBlockColumns) {
  if (wants_halves()) halves = ActivationRows(kMaxBatchSequences, normed);
}

size_t HeadWorkspace::bytes() const {
  return maxima.bytes() + scales.bytes() + halves.bytes() + squares_left_out.bytes() +
         is_fine.bytes();
}

void halve_codes(const Activations& from, const Activations& to) {
  for (size_t first = 0; first < from.n_columns; first += quant::kBlockColumns / 2) {
    int32_t upper_sum = 0, lower_sum = 0;
    for (size_t c = first; c < first + quant::kBlockColumns / 2; ++c) {
      const int32_t half = code_of(from, c) >> 1, upper = (half + 64) >> 7;
      to.codes[c] = static_cast<int8_t>(upper);
      to.low_codes[c] = static_cast<int8_t>(half - 128 * upper);
      upper_sum += to.codes[c];
      lower_sum += to.low_codes[c];
    }
    const size_t i = first / (quant::kBlockColumns / 2);
    to.minus_half_sums[i] = -upper_sum;
    to.low_minus_half_sums[i] = -lower_sum;
    if (i % 2 == 0) continue;
    to.minus_sums[i / 2] = to.minus_half_sums[i - 1] + to.minus_half_sums[i];
    to.low_minus_sums[i / 2] = to.low_minus_half_sums[i - 1] + to.low_minus_half_sums[i];
  }
}

OutputHead::OutputHead(const PackedMatrix& matrix, float softcap, std::vector<float> norms,
                       std::shared_ptr<MemoryLedger> ledger)
    : matrix_(matrix), softcap_(softcap) {
  if (softcap != 0 || norms.size() != matrix.n_panels()) return;
  norms_ = std::move(norms);
  norms_.resize(round_up(matrix.n_panels(), kBlockPanels));
  longest_ = *std::max_element(norms_.begin(), norms_.end());
  if (longest_ == kInfinity) std::vector<float>().swap(norms_);
  charge_ =
      MemoryCharge(std::move(ledger), MemoryCategory::kWorkspace, norms_.size() * sizeof(float));
}

PackedMatrix OutputHead::panel(size_t p) const {
  PackedMatrix one = panels_from(matrix_, p);
  one.n_rows = std::min(quant::kPanelRows, one.n_rows);
  return one;
}

// The final norm of a token's hidden state, as the i-th input of the product. Two planes of codes:
// the last product's error goes into the logits undamped.
void OutputHead::prepare(const Step& step, size_t i, int32_t row) const {
  const Config& c = step.config;
  const float* hidden = step.ws.hidden.data() + static_cast<size_t>(row) * c.n_embd;
  kernels().rms_norm(hidden, step.weights.output_norm.data(), c.n_embd, c.norm_eps,
                     step.ws.normed.row(i));
  if (c.n_embd % quant::kBlockColumns == 0)
    kernels().quantize_fine(step.ws.normed_fine.view(), i, 1);
}

void OutputHead::logits(const Step& step, std::span<const int32_t> rows, float* out) const {
  const Kernels& kernel = kernels();
  for (size_t i = 0; i < rows.size(); ++i) prepare(step, i, rows[i]);
  PanelShares shares(matrix_.n_panels(), matrix_.n_columns, rows.size(), step.gang.n_threads());
  shares.for_each(step.gang, [&](size_t first, size_t n) {
    kernel.matmul(matrix_, first, n, step.ws.normed_fine.view(), rows.size(), out, matrix_.n_rows);
    if (softcap_ == 0) return;
    const size_t row = first * 16, n_rows = std::min(n * 16, matrix_.n_rows - row);
    for (size_t i = 0; i < rows.size(); ++i)
      kernel.softcap(out + i * matrix_.n_rows + row, softcap_, n_rows);
  });
}

void OutputHead::first_ranks(const Step& step, std::span<RankedRow> rows) const {
  for (RankedRow& row : rows) row.n_found = 0;
  if (norms_.empty() || rows.empty()) return;
  const HeadWorkspace& ws = step.ws.head;
  for (size_t i = 0; i < rows.size(); ++i) {
    prepare(step, i, rows[i].row);
    if (wants_halves())
      halve_codes(tokens_from(step.ws.normed_fine.view(), i), tokens_from(ws.halves.view(), i));
  }
  choose_fine_blocks(step, rows.size());
  Activations inputs = CoarseInputs(step).codes;
  inputs.scales = ws.scales.data();
  PanelShares shares(matrix_.n_panels(), matrix_.n_columns, rows.size(), step.gang.n_threads());
  shares.for_each(step.gang, [&](size_t first, size_t n) {
    kernels().coarse_maxima(matrix_, first, n, inputs, ws.is_fine.data(), rows.size(),
                            ws.maxima.data(), bounds_of_a_row(matrix_.n_panels()));
  });
  step.gang.for_each(rows.size(), [&](size_t i, int) { find(step, i, rows[i]); });
}

// Chooses the blocks of columns of which the upper planes of the rows lack most, as many as it
// takes for a small error of the others, and sets the scales.
void OutputHead::choose_fine_blocks(const Step& step, size_t n_rows) const {
  const HeadWorkspace& ws = step.ws.head;
  const CoarseInputs coarse(step);
  const size_t n_blocks = matrix_.n_columns / quant::kBlockColumns;
  std::fill_n(ws.squares_left_out.data(), n_blocks, 0.0);
  std::fill_n(ws.is_fine.data(), n_blocks, false);
  double left = 0;
  for (size_t at = 0; at < n_rows * n_blocks; ++at) {
    const double square = coarse.square_left_out(at, false);
    ws.squares_left_out[at % n_blocks] += square;
    left += square;
  }
  const double wanted = kWantedError / static_cast<double>(longest_);
  const double enough = static_cast<double>(n_rows) * wanted * wanted;
  for (size_t n = n_blocks / kBlocksOfAFineOne; n > 0 && left > enough; --n) {
    double* const most =
        std::max_element(ws.squares_left_out.data(), ws.squares_left_out.data() + n_blocks);
    ws.is_fine[static_cast<size_t>(most - ws.squares_left_out.data())] = true;
    left -= std::exchange(*most, -1.0);
  }
  for (size_t at = 0; at < n_rows * n_blocks; ++at) {
    const int32_t unit = ws.is_fine[at % n_blocks] ? coarse.unit : 128 * coarse.unit;
    ws.scales[at] = static_cast<float>(unit) * coarse.exact.scales[at];
  }
}

// By how much a coarse logit of row i may be off where its weights have norm 1; infinite where a
// logit may not be finite.
float OutputHead::error_of(const Step& step, size_t i) const {
  const CoarseInputs coarse(step);
  const size_t n_blocks = matrix_.n_columns / quant::kBlockColumns;
  double whole = 0, left_out = 0;  // squares
  for (size_t b = 0; b < n_blocks; ++b) {
    const size_t at = i * n_blocks + b;
    whole += square_of(coarse.exact, at, [&](size_t c) { return code_of(coarse.exact, c); });
    left_out += coarse.square_left_out(at, step.ws.head.is_fine[b]);
  }
  const double size = std::sqrt(whole) + std::sqrt(left_out);  // at least |x|, and |y|
  // The roundings of either sum: one for each product of a code and a scale, at most one in 16
  // columns, two for the factors of each, and three of the bounds made from it. The last factor
  // covers what is of order u^2, and the roundings here.
  const double k = static_cast<double>(matrix_.n_columns) / 16 + 5;
  const double error = (std::sqrt(left_out) + 2 * k * 0x1p-24 * size) * (1 + 0x1p-10);
  const bool is_finite = (size + error) * static_cast<double>(longest_) < 0x1p100;
  return is_finite ? static_cast<float>(error) : kInfinity;
}

// Row i, whose coarse maxima are there.
void OutputHead::find(const Step& step, size_t i, RankedRow& row) const {
  const float error = error_of(step, i);
  const size_t n_panels = matrix_.n_panels();
  if (error == kInfinity || row.n_wanted > n_panels) return;
  float* const lower = step.ws.head.maxima.data() + i * bounds_of_a_row(n_panels);
  const auto off = [&](float norm) { return error * norm + kUnderflow; };
  for (size_t p = 0; p < n_panels; ++p) lower[p] -= off(norms_[p]);
  float* const highest = lower + round_up(n_panels, kBlockPanels);
  kernels().maxima(lower, n_panels, highest);
  const float bound = nth_highest({lower, n_panels}, highest, row.n_wanted);

  const Activations inputs = tokens_from(step.ws.normed_fine.view(), i);
  std::array<TokenLogit, kMostFound> found;
  size_t n_found = 0, n_computed = 0;
  const size_t most_computed = n_panels / 4 + 2 * row.n_wanted;
  for (size_t p = 0; p < n_panels; ++p) {
    if (p % kBlockPanels == 0 && highest[p / kBlockPanels] + 2 * off(longest_) < bound) {
      p += kBlockPanels - 1;
      continue;
    }
    if (lower[p] + 2 * off(norms_[p]) < bound) continue;
    if (++n_computed > most_computed) return;
    std::array<float, quant::kPanelRows> exact;
    const PackedMatrix rows = panel(p);
    kernels().matmul(rows, 0, 1, inputs, 1, exact.data(), exact.size());
    for (size_t r = 0; r < rows.n_rows; ++r) {
      if (exact[r] < bound) continue;
      if (n_found == kMostFound) return;
      found[n_found++] = {exact[r], static_cast<int32_t>(p * quant::kPanelRows + r)};
    }
  }
  std::partial_sort(found.begin(), found.begin() + row.n_wanted, found.begin() + n_found,
                    ranks_before);
  std::copy_n(found.begin(), row.n_wanted, row.ranks);
  row.n_found = row.n_wanted;
}

}  // namespace smallmind
