// The tensors of a model, packed for the kernels, and the binder that finds, checks and loads them.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/file.h"
#include "base/gang.h"
#include "base/tracking_allocator.h"
#include "gguf/reader.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "smallmind/cancellation.h"

namespace smallmind {

struct LayerWeights {
  std::vector<float> attention_norm;       // [n_embd]
  std::vector<float> query_norm;           // [head_dim], empty: none
  std::vector<float> key_norm;             // [head_dim], empty: none
  std::vector<float> post_attention_norm;  // [n_embd], empty: none
  std::vector<float> ffn_norm;             // [n_embd]
  std::vector<float> post_ffn_norm;        // [n_embd], empty: none
  PackedMatrix q, k, v, o, gate, up, down;
};

// Private pages that are filled once and then made read-only.
class WeightArena {
 public:
  WeightArena() = default;
  WeightArena(size_t bytes, std::shared_ptr<MemoryLedger> ledger);  // throws std::bad_alloc
  ~WeightArena();
  WeightArena(const WeightArena&) = delete;
  WeightArena& operator=(const WeightArena&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void protect();  // from here on a write is a fault

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  MemoryCharge charge_;
};

// Immutable after load; any thread.
struct Weights {
  std::deque<LayerWeights> layers;
  std::vector<float> output_norm;   // [n_embd]
  std::vector<float> rope_factors;  // [n_rot / 2], angles are divided by these; empty: none
  PackedMatrix embedding;           // [n_vocab] rows of n_embd
  PackedMatrix output;              // the same matrix where the file ties them
  std::vector<float> output_norms;  // [panels], its longest rows; OutputHead takes them
  std::unique_ptr<WeightArena> arena;
};

// Collects which tensors the architecture wants and where they go, then loads them all. Used by one
// thread.
class WeightBinder {
 public:
  explicit WeightBinder(const gguf::Header& header) : header_(header) {}

  bool has(const std::string& name) const;
  // The tensor must exist with this shape and a type fit for the role: a product's weights, or a
  // plain vector. Throws Error(kModelFormat, kUnsupportedModel) naming it. The target must stay
  // where it is until load(). norms, where given, too: it gets Kernels::panel_norms of
  // every panel, measured while the panel is in the caches.
  void matrix(const std::string& name, size_t n_rows, size_t n_columns, PackedMatrix& target,
              std::vector<float>* norms = nullptr);
  void vector(const std::string& name, size_t n, std::vector<float>& target);
  // Allocates, reads and packs everything with the gang's help, in file order, then protects it. A
  // tensor that nobody bound is an error. The ledger may be null.
  void load(const ByteSource& source, Gang& gang, const CallHooks& hooks,
            std::shared_ptr<MemoryLedger> ledger, Weights& weights);

 private:
  struct MatrixJob {
    const gguf::TensorInfo* tensor;
    PackedMatrix* target;
    std::vector<float>* norms;
  };
  struct VectorJob {
    const gguf::TensorInfo* tensor;
    std::vector<float>* target;
  };
  const gguf::TensorInfo& take(const std::string& name);
  void refuse_unbound() const;

  const gguf::Header& header_;
  std::unordered_set<const gguf::TensorInfo*> taken_;
  std::vector<MatrixJob> matrices_;
  std::vector<VectorJob> vectors_;
};

// The tensors that llama-like families have in common; gemma's extra norms are bound by its own
// file.
void bind_decoder(const Config& config, WeightBinder& binder, Weights& weights);
std::string layer_tensor(size_t layer, const char* name);  // "blk.3.attn_q.weight"

}  // namespace smallmind
