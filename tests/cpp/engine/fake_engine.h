// An engine over a model of a few lines: its logits depend on every token of the context, read back
// from the KV pages, so a wrong page, position or prefix changes the output.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/gang.h"
#include "base/utf8.h"
#include "engine/engine_impl.h"
#include "model/model.h"
#include "smallmind/engine.h"
#include "smallmind/tokenizer.h"

namespace smallmind::testing {

inline constexpr int32_t kBos = 256;
inline constexpr int32_t kEos = 257;
inline constexpr int32_t kPoison = 258;    // a context that holds it has NaN logits
inline constexpr int32_t kThrowing = 259;  // a step that holds it throws bad_alloc
inline constexpr int32_t kVocab = 260;

// Ids 0 to 255 are bytes.
class FakeTokenizer : public Tokenizer {
 public:
  FakeTokenizer() {
    for (int byte = 0; byte < 256; ++byte) bytes_.push_back(static_cast<char>(byte));
  }
  std::vector<int32_t> encode(std::string_view utf8, bool, bool,
                              std::span<const size_t>) const override {
    std::vector<int32_t> ids;
    for (char c : utf8) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const int32_t> ids, bool) const override {
    std::string bytes;
    for (int32_t id : ids) bytes += token_view(id);
    return to_valid_utf8(bytes);
  }
  std::string_view token_view(int32_t id) const override {
    return id < 256 ? std::string_view(bytes_).substr(static_cast<size_t>(id), 1) : "<>";
  }
  bool leading_space_is_added(int32_t) const override { return false; }
  int32_t n_vocab() const override { return kVocab; }
  int32_t bos_id() const override { return kBos; }
  int32_t eos_id() const override { return kEos; }
  bool add_bos() const override { return true; }
  bool is_control(int32_t id) const override { return id == kBos || id == kEos; }
  bool is_end_of_generation(int32_t id) const override { return id == kEos; }
  std::vector<int32_t> end_ids() const override { return {kEos}; }
  std::vector<std::string> control_texts() const override { return {}; }
  const std::string& chat_template() const override { return template_; }
  size_t memory_bytes() const override { return 0; }

 private:
  std::string bytes_;
  const std::string template_;
};

inline uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 29);
}

// The next token's logits after a context: the reference that tests compare with.
inline std::vector<float> fake_logits(uint64_t hash) {
  std::vector<float> row(kVocab);
  for (size_t id = 0; id < row.size(); ++id) {
    row[id] = static_cast<float>(mix(hash, id) >> 40) * 0x1p-21f;  // 0 to 8
  }
  row[kBos] = row[kPoison] = row[kThrowing] = -10;
  row[kEos] -= 3;
  return row;
}

inline uint64_t fake_hash(std::span<const int32_t> context) {
  uint64_t hash = 1;
  for (int32_t id : context) hash = mix(hash, static_cast<uint64_t>(id));
  return hash;
}

inline bool holds(std::span<const int32_t> context, int32_t id) {
  for (int32_t each : context) {
    if (each == id) return true;
  }
  return false;
}

// The greedy continuation, computed with no engine.
inline std::vector<int32_t> fake_greedy(std::vector<int32_t> context, size_t n) {
  std::vector<int32_t> generated;
  while (generated.size() < n) {
    const std::vector<float> row = fake_logits(fake_hash(context));
    size_t best = 0;
    for (size_t id = 0; id < row.size(); ++id) best = row[id] > row[best] ? id : best;
    if (best == kEos) break;
    generated.push_back(static_cast<int32_t>(best));
    context.push_back(generated.back());
  }
  return generated;
}

struct FakeWorkspace : Workspace {
  struct RowState {
    uint64_t hash = 0;
    bool is_poisoned = false;
  };
  std::vector<RowState> rows;
};

// What tests turn and read.
struct FakeControls {
  std::atomic<int> step_micros{0};
  std::atomic<int> n_steps{0};
  std::atomic<int> n_abandoned_steps{0};
  std::atomic<int64_t> n_tokens{0};
  std::atomic<int64_t> n_outputs{0};
  std::atomic<int> n_violations{0};  // of forward's contract
  std::atomic<int> largest_slice{0};
};

class FakeModel : public Model {
 public:
  static constexpr size_t kPageBytes = 4096;
  static constexpr int kLayers = 4;  // the watch is asked so often in a step

  FakeModel(std::shared_ptr<FakeControls> controls, int64_t context_length, int64_t window = 0)
      : controls_(std::move(controls)), context_length_(context_length), window_(window) {}

  const std::string& architecture() const override { return architecture_; }
  int64_t n_vocab() const override { return kVocab; }
  int64_t n_embd() const override { return 4; }
  int64_t n_layers() const override { return 1; }
  int64_t context_length() const override { return context_length_; }
  size_t page_bytes(PageGroup group) const override {
    return group == PageGroup::kFull || window_ > 0 ? kPageBytes : 0;
  }
  int64_t window() const override { return window_; }
  uint64_t weight_bytes() const override { return 0; }
  std::unique_ptr<Workspace> make_workspace() const override {
    return std::make_unique<FakeWorkspace>();
  }

  bool forward(std::span<const SequenceSlice> slices, Workspace& workspace, Gang& gang,
               StepWatch* watch) const override {
    auto& rows = static_cast<FakeWorkspace&>(workspace).rows;
    size_t n_tokens = 0, n_rows = 0;
    std::vector<size_t> first_rows;
    for (const SequenceSlice& slice : slices) {
      n_tokens += slice.ids.size();
      first_rows.push_back(n_rows);
      n_rows += slice.n_outputs;
      if (slice.n_outputs > slice.ids.size()) ++controls_->n_violations;
    }
    if (n_tokens == 0 || n_tokens > kMaxBatchTokens || slices.size() > kMaxBatchSequences) {
      ++controls_->n_violations;
    }
    rows.assign(n_rows, {});
    ++controls_->n_steps;
    controls_->n_outputs += static_cast<int64_t>(n_rows);
    controls_->n_tokens += static_cast<int64_t>(n_tokens);
    const int micros = controls_->step_micros.load();
    for (int layer = 0; micros > 0 && layer < kLayers; ++layer) {
      std::this_thread::sleep_for(std::chrono::microseconds(micros / kLayers));
      if (watch != nullptr && !watch->is_wanted()) {
        ++controls_->n_abandoned_steps;
        return false;
      }
    }
    gang.for_each(slices.size(), [&](size_t i, int) {
      run_slice(slices[i], std::span(rows).subspan(first_rows[i], slices[i].n_outputs));
    });
    return true;
  }

  void logits(std::span<const int32_t> rows, Workspace& workspace, Gang&,
              float* out) const override {
    const auto& states = static_cast<FakeWorkspace&>(workspace).rows;
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto& state = states.at(static_cast<size_t>(rows[i]));
      std::vector<float> row = fake_logits(state.hash);
      if (state.is_poisoned) row[5] = std::numeric_limits<float>::quiet_NaN();
      std::memcpy(out + i * kVocab, row.data(), row.size() * sizeof(float));
    }
  }

  // Of three rows in four, so that both ways meet in one step.
  void first_ranks(std::span<RankedRow> rows, Workspace& workspace, Gang&) const override {
    for (RankedRow& row : rows) {
      const auto& states = static_cast<FakeWorkspace&>(workspace).rows;
      const auto& state = states.at(static_cast<size_t>(row.row));
      row.n_found = 0;
      if (state.is_poisoned || state.hash % 4 == 0 || row.n_wanted > kVocab) continue;
      const std::vector<float> logits = fake_logits(state.hash);
      std::vector<TokenLogit> all;
      for (const float logit : logits) all.push_back({logit, static_cast<int32_t>(all.size())});
      std::sort(all.begin(), all.end(), ranks_before);
      std::copy_n(all.begin(), row.n_wanted, row.ranks);
      row.n_found = row.n_wanted;
    }
  }

 private:
  void run_slice(const SequenceSlice& slice, std::span<FakeWorkspace::RowState> rows) const {
    const auto n = static_cast<int>(slice.ids.size());
    int seen = controls_->largest_slice.load();
    while (seen < n && !controls_->largest_slice.compare_exchange_weak(seen, n)) {
    }
    const size_t end = static_cast<size_t>(slice.first_position) + slice.ids.size();
    if (end > static_cast<size_t>(context_length_) || slice.pages.size() * kPageTokens < end) {
      ++controls_->n_violations;
      return;
    }
    std::vector<int32_t> context;
    for (size_t position = 0; position < end; ++position) {
      std::byte* const page = slice.pages[position / kPageTokens];
      std::byte* const slot = page + (position % kPageTokens) * sizeof(int32_t);
      if (position >= static_cast<size_t>(slice.first_position)) {
        const size_t i = position - static_cast<size_t>(slice.first_position);
        if (slice.ids[i] == kThrowing) throw std::bad_alloc();
        std::memcpy(slot, &slice.ids[i], sizeof(int32_t));
      }
      int32_t id = 0;
      std::memcpy(&id, slot, sizeof id);
      context.push_back(id);
    }
    if (window_ > 0) check_window(slice, context);
    uint64_t hash = fake_hash(std::span(context).first(static_cast<size_t>(slice.first_position)));
    const size_t first_output = slice.ids.size() - rows.size();
    for (size_t i = 0; i < slice.ids.size(); ++i) {
      hash = mix(hash, static_cast<uint64_t>(slice.ids[i]));
      if (i < first_output) continue;
      const size_t n_seen = static_cast<size_t>(slice.first_position) + i + 1;
      rows[i - first_output] = {hash, holds(std::span(context).first(n_seen), kPoison)};
    }
  }

  // The window's pages hold the same ids, as far as the slice's tokens see them.
  void check_window(const SequenceSlice& slice, std::span<const int32_t> context) const {
    const auto first = std::max<int64_t>(0, slice.first_position + 1 - window_);
    for (auto position = static_cast<size_t>(first); position < context.size(); ++position) {
      std::byte* const page = slice.window_pages[position / kPageTokens];
      if (page == nullptr) {
        ++controls_->n_violations;
        return;
      }
      std::byte* const slot = page + (position % kPageTokens) * sizeof(int32_t);
      if (position >= static_cast<size_t>(slice.first_position)) {
        std::memcpy(slot, &context[position], sizeof(int32_t));
      }
      if (std::memcmp(slot, &context[position], sizeof(int32_t)) != 0) ++controls_->n_violations;
    }
  }

  const std::shared_ptr<FakeControls> controls_;
  const std::string architecture_ = "fake";
  const int64_t context_length_;
  const int64_t window_;
};

struct FakeEngine {
  std::shared_ptr<FakeControls> controls = std::make_shared<FakeControls>();
  std::shared_ptr<EngineImpl> engine;

  explicit FakeEngine(int n_threads = 2, EngineOptions options = {}, int64_t context_length = 8192,
                      int64_t window = 0)
      : engine(EngineImpl::create(std::make_shared<FakeModel>(controls, context_length, window),
                                  std::make_shared<FakeTokenizer>(),
                                  std::make_unique<Gang>(n_threads), options, {})) {}
  EngineImpl* operator->() const { return engine.get(); }

  std::shared_ptr<Session> session() const { return engine->text_session({}); }

  // Whether, within five seconds, nothing is queued, running or (but for sessions) held.
  bool becomes_idle(int64_t n_kv_pages = 0) const {
    for (int i = 0; i < 5000; ++i) {
      const EngineStatus status = engine->status();
      if (status.n_running == 0 && status.n_queued == 0 && status.n_kv_pages == n_kv_pages) {
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
};

inline constexpr Clock::duration kForever = Clock::duration::max();

inline SamplingParams greedy(int64_t max_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = max_tokens;
  return params;
}

inline RequestOptions collecting() {
  RequestOptions options;
  options.collect_only = true;
  return options;
}

// generate() as bindings make it.
inline GenerationResult generate(Session& session, const std::string& prompt,
                                 const SamplingParams& params,
                                 const RequestOptions& options = collecting()) {
  const std::shared_ptr<Stream> stream = session.start_text(prompt, params, options);
  stream->wait_end(kForever);
  return stream->result();
}

inline std::vector<Token> read_all(Stream& stream) {
  std::vector<Token> tokens;
  Token token;
  while (stream.next(token, kForever) == Stream::Status::kToken) tokens.push_back(token);
  return tokens;
}

// The ids of a prompt at the start of a session.
inline std::vector<int32_t> prompt_ids(const std::string& prompt) {
  std::vector<int32_t> ids = FakeTokenizer().encode(prompt, false, false, {});
  ids.insert(ids.begin(), kBos);
  return ids;
}

}  // namespace smallmind::testing
