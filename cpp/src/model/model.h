// A loaded model: immutable weights and the graph over them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/gang.h"
#include "base/tracking_allocator.h"
#include "gguf/reader.h"
#include "model/token_logit.h"
#include "smallmind/cancellation.h"
#include "smallmind/options.h"

namespace smallmind {

inline constexpr int kPageTokens = 32;
inline constexpr int kMaxBatchSequences = 64;
inline constexpr int kMaxBatchTokens = 256;  // all tokens of a step

// KV pages come in two groups: of the layers that see everything, and of those with a window.
enum class PageGroup : uint8_t { kFull, kWindow };
inline constexpr size_t kPageGroups = 2;

// One sequence's part of a step. Tokens ids[0 ... n_tokens) stand at positions first_position + i;
// KV of all earlier positions is in the pages; forward() writes theirs. pages[i] and
// window_pages[i] hold positions [32 i, 32 i + 32), each page_bytes(group) long and 64-byte
// aligned. Window pages that no token of the slice can see may be null, and all pages of a group of
// 0 bytes are. Outputs are the last n_outputs tokens, at most all of them: of the others the last
// layer writes keys and values, and no hidden state comes out.
struct SequenceSlice {
  std::span<const int32_t> ids;  // each in [0, n_vocab)
  int64_t first_position = 0;
  std::span<std::byte* const> pages;
  std::span<std::byte* const> window_pages;
  size_t n_outputs = 0;
};

// One row of Model::first_ranks.
inline constexpr size_t kMaxRanks = 256;
struct RankedRow {
  int32_t row = 0;      // as of Model::logits
  size_t n_wanted = 1;  // at most kMaxRanks
  TokenLogit* ranks = nullptr;
  size_t n_found = 0;  // n_wanted, or 0: what this row asks for takes its logits
};

// Asked by forward() between layers, in the thread that called it.
class StepWatch {
 public:
  virtual ~StepWatch() = default;
  virtual bool is_wanted() noexcept = 0;  // false: the rest of the step is not worth computing
};

// Everything a step writes besides KV pages; sized once, used by one step at a time.
class Workspace;

// Const after load: any number of threads may read one model, each with its own Workspace, Gang and
// pages.
class Model {
 public:
  virtual ~Model() = default;

  virtual const std::string& architecture() const = 0;
  virtual int64_t n_vocab() const = 0;
  virtual int64_t n_embd() const = 0;
  virtual int64_t n_layers() const = 0;
  virtual int64_t context_length() const = 0;
  virtual size_t page_bytes(PageGroup group) const = 0;  // 0: the model has no such layers
  // Keys that a layer with a window sees, the query's own included; 0: no layer has one.
  virtual int64_t window() const = 0;
  virtual uint64_t weight_bytes() const = 0;

  virtual std::unique_ptr<Workspace> make_workspace() const = 0;
  // Computes all slices in one pass over the weights (REQUIRES: at most kMaxBatchSequences of them,
  // with at most kMaxBatchTokens tokens in all and at least one) and leaves the final hidden state
  // of every output, in the order of the slices, in the workspace. False when the watch ended it:
  // the slices' positions are then as before. `watch` may be null.
  virtual bool forward(std::span<const SequenceSlice> slices, Workspace& workspace, Gang& gang,
                       StepWatch* watch) const = 0;
  // Raw logits of the workspace's hidden states `rows` (row indices in the order of forward's
  // outputs): out is [rows.size(), n_vocab]. An out-of-range value (NaN, infinity) is written
  // as it is: the caller checks with row_is_finite.
  virtual void logits(std::span<const int32_t> rows, Workspace& workspace, Gang& gang,
                      float* out) const = 0;
  // The first n_wanted tokens of each row, in rank order and with the logits that logits() gives,
  // without computing them all. Finds none where that is no shortcut (many tokens are nearly
  // equal), where the model has none, and where a logit may not be finite. At most
  // kMaxBatchSequences rows.
  virtual void first_ranks(std::span<RankedRow> rows, Workspace&, Gang&) const {
    for (RankedRow& row : rows) row.n_found = 0;
  }
};

class Workspace {
 public:
  virtual ~Workspace() = default;
};

// Reads, validates and packs the tensors. gang is used for packing; hooks.tick sees the stage
// "weights" in bytes. Weights and workspaces are entered in the ledger, which may be null. Throws
// kUnsupportedModel, kModelFormat, kModelIo, kCancelled.
std::unique_ptr<const Model> load_model(const gguf::Header& header, const ByteSource& source,
                                        CacheType cache_type, Gang& gang, const CallHooks& hooks,
                                        std::shared_ptr<MemoryLedger> ledger = nullptr);

// True when no element is NaN or infinite.
bool row_is_finite(std::span<const float> row);

// The instruction set in use: "generic", "avx2", "avx2_vnni", "avx512", "avx512_bf16",
// "avx512_amx" or "neon". SMALLMIND_ISA forces one; an unknown or unavailable one throws
// kInvalidArgument.
const char* active_isa();

}  // namespace smallmind
