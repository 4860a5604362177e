#include <cmath>
#include <utility>

#include "base/utf8.h"
#include "model/architectures.h"
#include "model/model.h"
#include "model/output_head.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

class DecoderModel : public Model {
 public:
  DecoderModel(const Architecture& architecture, Config config, KvLayout kv, Weights weights,
               OutputHead head, std::shared_ptr<MemoryLedger> ledger)
      : architecture_(architecture),
        config_(std::move(config)),
        weights_(std::move(weights)),
        kv_(std::move(kv)),
        head_(std::move(head)),
        ledger_(std::move(ledger)) {}

  const std::string& architecture() const override { return config_.architecture; }
  int64_t n_vocab() const override { return static_cast<int64_t>(config_.n_vocab); }
  int64_t n_embd() const override { return static_cast<int64_t>(config_.n_embd); }
  int64_t n_layers() const override { return static_cast<int64_t>(config_.n_layers); }
  int64_t context_length() const override { return static_cast<int64_t>(config_.context_length); }
  size_t page_bytes(PageGroup group) const override {
    return kv_.page_bytes[static_cast<size_t>(group)];
  }
  int64_t window() const override {
    return page_bytes(PageGroup::kWindow) > 0 ? static_cast<int64_t>(config_.window) : 0;
  }
  uint64_t weight_bytes() const override { return weights_.arena->bytes(); }

  std::unique_ptr<Workspace> make_workspace() const override {
    return std::make_unique<DecoderWorkspace>(config_, weights_, ledger_);
  }

  bool forward(std::span<const SequenceSlice> slices, Workspace& workspace, Gang& gang,
               StepWatch* watch) const override {
    const Step step = step_in(workspace, gang);
    begin_step(slices, step);
    embed(step);
    norm(step, attention_norm(step, 0));
    for (size_t i = 0; i < config_.n_layers; ++i) {
      if (i > 0 && watch != nullptr && !watch->is_wanted()) return false;
      architecture_.run_layer(step, i);
    }
    return true;
  }

  void logits(std::span<const int32_t> rows, Workspace& workspace, Gang& gang,
              float* out) const override {
    head_.logits(step_in(workspace, gang), rows, out);
  }

  void first_ranks(std::span<RankedRow> rows, Workspace& workspace, Gang& gang) const override {
    head_.first_ranks(step_in(workspace, gang), rows);
  }

 private:
  Step step_in(Workspace& workspace, Gang& gang) const {
    return {config_, weights_, kv_, static_cast<DecoderWorkspace&>(workspace), gang};
  }

  // Constant after construction; any thread.
  const Architecture& architecture_;
  const Config config_;
  const Weights weights_;
  const KvLayout kv_;
  const OutputHead head_;
  const std::shared_ptr<MemoryLedger> ledger_;
};

// The vocabulary's size is the embedding's number of rows; the token list and llama.vocab_size must
// agree with it.
size_t vocabulary_size(const gguf::Header& header, const std::string& architecture) {
  const gguf::TensorInfo* embedding = header.find_tensor("token_embd.weight");
  if (embedding == nullptr)
    throw Error(ErrorKind::kModelFormat, "tensor 'token_embd.weight' is missing");
  const uint64_t n_rows = embedding->dims[1];
  if (n_rows == 0 || n_rows > gguf::kMaxArrayLength)
    throw Error(ErrorKind::kModelFormat,
                "tensor 'token_embd.weight' has " + std::to_string(n_rows) + " rows");
  const auto tokens = header.metadata.find_strings("tokenizer.ggml.tokens");
  if (tokens && tokens->size() != n_rows) {
    throw Error(ErrorKind::kModelFormat, "tensor 'token_embd.weight' has " +
                                             std::to_string(n_rows) +
                                             " rows, key 'tokenizer.ggml.tokens' has " +
                                             std::to_string(tokens->size()) + " entries");
  }
  const auto stated = header.metadata.find_u32(architecture + ".vocab_size");
  if (stated && *stated != n_rows) {
    throw Error(ErrorKind::kModelFormat,
                "key '" + escape(architecture) + ".vocab_size': " + std::to_string(*stated) +
                    "; tensor 'token_embd.weight' has " + std::to_string(n_rows) + " rows");
  }
  return n_rows;
}

}  // namespace

std::unique_ptr<const Model> load_model(const gguf::Header& header, const ByteSource& source,
                                        CacheType cache_type, Gang& gang, const CallHooks& hooks,
                                        std::shared_ptr<MemoryLedger> ledger) {
  kernels();  // an unusable SMALLMIND_ISA is refused before anything is read
  const auto name = header.metadata.find_string("general.architecture");
  if (!name) throw Error(ErrorKind::kUnsupportedModel, "key 'general.architecture' is missing");
  const Architecture* architecture = find_architecture(*name);
  if (architecture == nullptr)
    throw Error(ErrorKind::kUnsupportedModel,
                "key 'general.architecture': '" + escape(*name) + "' is not supported");
  Config config = architecture->read_config(header);
  config.n_vocab = vocabulary_size(header, config.architecture);
  KvLayout kv = make_kv_layout(config, cache_type);
  Weights weights;
  WeightBinder binder(header);
  architecture->bind_weights(config, binder, weights);
  binder.load(source, gang, hooks, ledger, weights);
  if (weights.output.panels == nullptr) weights.output = weights.embedding;
  for (const float factor : weights.rope_factors)
    if (!(factor > 0) || !std::isfinite(factor))
      throw Error(ErrorKind::kModelFormat,
                  "tensor 'rope_freqs.weight' holds a factor that is not above 0");
  OutputHead head(weights.output, config.logit_softcap, std::move(weights.output_norms), ledger);
  return std::make_unique<DecoderModel>(*architecture, std::move(config), std::move(kv),
                                        std::move(weights), std::move(head), std::move(ledger));
}

bool row_is_finite(std::span<const float> row) {
  return kernels().all_finite(row.data(), row.size());
}

const char* active_isa() { return kernels().name; }

}  // namespace smallmind
