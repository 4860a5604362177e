// For each model named: one 128-token prefill and one decode step after it, on one thread, up to
// the chosen token. Under callgrind each leaves its counts under the label "INDEX prefill" or
// "INDEX decode".
#include <valgrind/callgrind.h>

#include <algorithm>
#include <exception>
#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/gang.h"
#include "model/model.h"
#include "sampling/sampler.h"

namespace smallmind {
namespace {

constexpr int64_t kPromptTokens = 128;
constexpr int64_t kTokens = kPromptTokens + 1;

// One sequence over a model, with pages for all its tokens.
class Sequence {
 public:
  explicit Sequence(const Model& model) : model_(model), workspace_(model.make_workspace()) {
    for (int64_t at = 0; at < kTokens; at += kPageTokens) {
      full_.push_back(take(PageGroup::kFull));
      window_.push_back(take(PageGroup::kWindow));
    }
    for (int64_t i = 0; i < kTokens; ++i)
      ids_.push_back(static_cast<int32_t>((i * i + 11) % model.n_vocab()));
    logits_.resize(static_cast<size_t>(model.n_vocab()));
  }

  // Tokens [first, first + n), none of them an output.
  void run_chunk(int64_t first, int64_t n) { forward(first, n, 0); }
  // The same with all of them outputs, as in a layer that is not the last (the model may have but
  // one), and the choice of the next.
  int32_t run(int64_t first, int64_t n) {
    const auto ids = forward(first, n, static_cast<size_t>(n));
    // As the engine does for a greedy choice.
    TokenLogit best;
    RankedRow row{static_cast<int32_t>(n - 1), 1, &best};
    model_.first_ranks({&row, 1}, *workspace_, gang_);
    if (row.n_found == 1) return best.id;
    model_.logits({&row.row, 1}, *workspace_, gang_, logits_.data());
    return sampler_.choose(logits_, ids, scratch_).id;
  }

 private:
  std::span<const int32_t> forward(int64_t first, int64_t n, size_t n_outputs) {
    const auto ids =
        std::span<const int32_t>(ids_).subspan(static_cast<size_t>(first), static_cast<size_t>(n));
    const SequenceSlice slice{ids, first, full_, window_, n_outputs};
    model_.forward({&slice, 1}, *workspace_, gang_, nullptr);
    return ids;
  }
  std::byte* take(PageGroup group) {
    pages_.emplace_back(model_.page_bytes(group));
    std::fill_n(pages_.back().data(), pages_.back().bytes(), std::byte{});
    return pages_.back().data();
  }

  const Model& model_;
  Gang gang_{1};
  std::unique_ptr<Workspace> workspace_;
  std::vector<AlignedBuffer<std::byte>> pages_;
  std::vector<std::byte*> full_, window_;
  std::vector<int32_t> ids_;
  std::vector<float> logits_;
  SamplingParams params_;
  Sampler sampler_{params_, 1, {}};
  SamplerScratch scratch_;
};

template <class Fn>
void count(const std::string& label, const Fn& fn) {
  CALLGRIND_START_INSTRUMENTATION;
  fn();
  CALLGRIND_STOP_INSTRUMENTATION;
  CALLGRIND_DUMP_STATS_AT(label.c_str());
}

void count_steps(const std::string& path, const std::string& index) {
  Gang gang(1);
  const auto source = open_file(path);
  const auto model = load_model(gguf::parse(*source), *source, CacheType::kBf16, gang, {});
  Sequence sequence(*model);
  sequence.run(0, 1);  // what happens once only is not counted
  count(index + " chunk", [&] { sequence.run_chunk(0, kPromptTokens); });
  count(index + " prefill", [&] { sequence.run(0, kPromptTokens); });
  count(index + " decode", [&] { sequence.run(kPromptTokens, 1); });
}

}  // namespace
}  // namespace smallmind

int main(int argc, char** argv) {
  try {
    for (int i = 1; i < argc; ++i) smallmind::count_steps(argv[i], std::to_string(i - 1));
  } catch (const std::exception& error) {
    std::cerr << "callgrind_steps: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
