// A step of small models with random weights: the same bits however it is cut, pages out of sight
// untouched, and a watch that ends it between layers.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/gang.h"
#include "gguf/model_bytes.h"
#include "model/model.h"

namespace smallmind {
namespace {

constexpr int64_t kWindow = 8;  // of gguf::ModelBytes' gemma3

void fill_with_floats(std::span<char> tensor, std::mt19937& rng) {
  std::normal_distribution<float> draw(0.0f, 0.4f);
  for (size_t at = 0; at < tensor.size(); at += 4) {
    const float x = draw(rng);
    std::memcpy(tensor.data() + at, &x, 4);
  }
}

// Blocks of random codes whose scale, and the offset behind it if they have one, are as given; both
// are binary16.
void fill_with_blocks(std::span<char> tensor, size_t block_bytes, std::span<const uint16_t> halves,
                      std::mt19937& rng) {
  for (char& byte : tensor) byte = static_cast<char>(rng());
  for (size_t at = 0; at < tensor.size(); at += block_bytes)
    std::memcpy(tensor.data() + at, halves.data(), halves.size_bytes());
}

std::unique_ptr<const Model> random_model(const char* architecture, uint32_t n_layers,
                                          CacheType cache_type = CacheType::kBf16,
                                          gguf::TensorType matrices = gguf::TensorType::kF32) {
  std::string bytes = gguf::ModelBytes(architecture, 4'096, n_layers, matrices).all();
  const auto source = memory_source(std::as_bytes(std::span(bytes)));
  const gguf::Header header = gguf::parse(*source);
  std::mt19937 rng(n_layers);
  constexpr uint16_t kScale[] = {0x1c00};                   // 2^-8
  constexpr uint16_t kScaleAndOffset[] = {0x2800, 0xb380};  // 2^-5, -7.5 of them
  for (const gguf::TensorInfo& tensor : header.tensors) {
    const std::span<char> data = std::span(bytes).subspan(tensor.offset, tensor.n_bytes);
    if (tensor.type == gguf::TensorType::kF32)
      fill_with_floats(data, rng);
    else if (tensor.type == gguf::TensorType::kQ8_0)
      fill_with_blocks(data, 34, kScale, rng);
    else
      fill_with_blocks(data, 20, kScaleAndOffset, rng);
  }
  Gang gang(1);
  return load_model(header, *source, cache_type, gang, {});
}

// The pages of one sequence, full of NaN at first.
class Pages {
 public:
  explicit Pages(const Model& model) : model_(model) {}

  void grow(int64_t n_tokens) {
    while (static_cast<int64_t>(full_.size()) * kPageTokens < n_tokens) {
      full_.push_back(take(PageGroup::kFull));
      window_.push_back(take(PageGroup::kWindow));
    }
  }
  // What no token from `position` on sees.
  void drop_hidden(int64_t position) {
    if (model_.window() == 0) return;
    for (int64_t page = 0; (page + 1) * kPageTokens <= position + 1 - model_.window(); ++page)
      window_[static_cast<size_t>(page)] = nullptr;
  }
  // All of it outputs.
  SequenceSlice slice(std::span<const int32_t> ids, int64_t first_position) const {
    return {ids, first_position, full_, window_, ids.size()};
  }

 private:
  std::byte* take(PageGroup group) {
    const size_t n_bytes = model_.page_bytes(group);
    if (n_bytes == 0) return nullptr;
    storage_.push_back(std::make_unique<std::byte[]>(n_bytes + 64));
    std::memset(storage_.back().get(), 0xff, n_bytes + 64);
    const auto at = reinterpret_cast<uintptr_t>(storage_.back().get());
    return storage_.back().get() + (64 - at % 64) % 64;
  }

  const Model& model_;
  std::vector<std::unique_ptr<std::byte[]>> storage_;
  std::vector<std::byte*> full_, window_;
};

class ForwardTest : public testing::TestWithParam<std::tuple<const char*, gguf::TensorType>> {
 protected:
  static std::unique_ptr<const Model> seven_layers() {  // gemma3's sixth sees everything
    return random_model(std::get<0>(GetParam()), 7, CacheType::kBf16, std::get<1>(GetParam()));
  }
  // Logits of every position, computed in chunks.
  std::vector<float> run(const Model& model, int n_threads, int64_t chunk, bool drops) const {
    return run(model, ids_, n_threads, chunk, drops);
  }
  static std::vector<float> run(const Model& model, const std::vector<int32_t>& ids, int n_threads,
                                int64_t chunk, bool drops) {
    Gang gang(n_threads);
    const auto workspace = model.make_workspace();
    Pages pages(model);
    const auto n_vocab = static_cast<size_t>(model.n_vocab());
    std::vector<float> out(ids.size() * n_vocab);
    for (int64_t at = 0; at < static_cast<int64_t>(ids.size()); at += chunk) {
      const auto n = std::min(chunk, static_cast<int64_t>(ids.size()) - at);
      pages.grow(at + n);
      if (drops) pages.drop_hidden(at);
      const SequenceSlice slice =
          pages.slice(std::span(ids).subspan(static_cast<size_t>(at), static_cast<size_t>(n)), at);
      EXPECT_TRUE(model.forward({&slice, 1}, *workspace, gang, nullptr));
      std::vector<int32_t> rows(static_cast<size_t>(n));
      for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
      model.logits(rows, *workspace, gang, out.data() + static_cast<size_t>(at) * n_vocab);
    }
    return out;
  }

  static std::vector<int32_t> make_ids(size_t factor) {
    std::vector<int32_t> ids(900);
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int32_t>(factor * i * i % gguf::kVocab);
    return ids;
  }
  const std::vector<int32_t> ids_ = make_ids(1);
};

INSTANTIATE_TEST_SUITE_P(Families, ForwardTest,
                         testing::Combine(testing::Values("llama", "gemma3"),
                                          testing::Values(gguf::TensorType::kF32,
                                                          gguf::TensorType::kQ8_0,
                                                          gguf::TensorType::kQ4_1)));

TEST_P(ForwardTest, GivesTheSameBitsInAnyChunksOnAnyThreads) {
  const auto model = seven_layers();
  const auto whole = run(*model, 1, 256, false);
  for (const float x : whole) ASSERT_TRUE(std::isfinite(x));
  EXPECT_NE(0, std::memcmp(whole.data(), whole.data() + model->n_vocab() * 2,
                           static_cast<size_t>(model->n_vocab()) * 4));
  for (const auto& [n_threads, chunk] :
       {std::pair{1, 1}, {2, 1}, {3, 1}, {2, 48}, {3, 131}, {2, 256}, {3, 256}, {4, 256}}) {
    EXPECT_EQ(0, std::memcmp(whole.data(), run(*model, n_threads, chunk, true).data(),
                             whole.size() * sizeof(float)))
        << n_threads << " threads, chunks of " << chunk;
  }
}

// A sequence that steps compute piece by piece, and the logits of all its positions.
struct Growing {
  std::vector<int32_t> ids;
  std::vector<float> logits;
  Pages pages;
  int64_t n_done = 0;

  SequenceSlice next(int64_t n, size_t n_outputs) {
    pages.grow(n_done + n);
    pages.drop_hidden(n_done);
    const auto first = static_cast<size_t>(std::exchange(n_done, n_done + n));
    SequenceSlice slice = pages.slice(std::span(ids).subspan(first, static_cast<size_t>(n)),
                                      static_cast<int64_t>(first));
    slice.n_outputs = n_outputs;
    return slice;
  }
  // Of the last n positions computed.
  std::span<const float> last_logits(size_t n, size_t n_vocab) const {
    return std::span(logits).subspan((static_cast<size_t>(n_done) - n) * n_vocab, n * n_vocab);
  }
};

// Three sequences side by side: the outputs of a step come out alone, in the order of its slices,
// and what is none leaves its keys and values behind. The last of six gemma3 layers sees
// everything, the last of seven has a window.
TEST_P(ForwardTest, GivesTheSameBitsWhereNotAllAreOutputs) {
  struct Part {
    size_t sequence;
    int64_t n;
    size_t n_outputs;
  };
  const std::vector<std::vector<Part>> steps = {
      {{0, 40, 0}, {1, 70, 0}, {2, 90, 0}},  // no output
      {{0, 1, 1}, {1, 100, 0}, {2, 33, 1}},  // one that decodes, and the end of a prompt
      {{0, 1, 1}, {1, 1, 1}, {2, 64, 40}},   // some of a slice
      {{0, 1, 0}, {1, 1, 1}, {2, 1, 1}},
      {{0, 200, 200}, {1, 9, 8}, {2, 3, 3}},
      {{1, 240, 0}},
      {{0, 9, 0}, {1, 240, 1}},
      {{0, 100, 0}, {1, 1, 1}},  // one whose long context the threads share
      {{2, 20, 0}, {1, 1, 1}, {0, 1, 1}},
  };
  for (const auto& [n_layers, n_threads] :
       {std::pair{6, 1}, {6, 2}, {6, 3}, {7, 1}, {7, 2}, {7, 3}}) {
    const auto model =
        random_model(std::get<0>(GetParam()), n_layers, CacheType::kBf16, std::get<1>(GetParam()));
    const auto n_vocab = static_cast<size_t>(model->n_vocab());
    std::vector<Growing> sequences;
    for (const size_t factor : {1, 3, 5}) {
      const auto ids = make_ids(factor);
      sequences.push_back({ids, run(*model, ids, 1, 256, false), Pages(*model)});
    }
    Gang gang(n_threads);
    const auto workspace = model->make_workspace();
    for (const auto& step : steps) {
      std::vector<SequenceSlice> slices;
      std::vector<float> want;
      for (const Part& part : step) {
        Growing& sequence = sequences[part.sequence];
        slices.push_back(sequence.next(part.n, part.n_outputs));
        const auto logits = sequence.last_logits(part.n_outputs, n_vocab);
        want.insert(want.end(), logits.begin(), logits.end());
      }
      ASSERT_TRUE(model->forward(slices, *workspace, gang, nullptr));
      if (want.empty()) continue;
      std::vector<int32_t> rows(want.size() / n_vocab);
      std::iota(rows.begin(), rows.end(), 0);
      std::vector<float> out(want.size());
      model->logits(rows, *workspace, gang, out.data());
      EXPECT_EQ(0, std::memcmp(out.data(), want.data(), out.size() * sizeof(float)))
          << n_layers << " layers, " << n_threads << " threads, step " << &step - steps.data();
    }
  }
}

TEST_P(ForwardTest, AsksTheWatchBetweenLayersAndLeavesThePositionsAsTheyWere) {
  struct Watch : StepWatch {
    int n_left;
    int n_asked = 0;
    explicit Watch(int n) : n_left(n) {}
    bool is_wanted() noexcept override { return ++n_asked <= n_left; }
  };
  const auto model = seven_layers();
  const auto want = run(*model, 1, 256, false);
  Gang gang(2);
  const auto workspace = model->make_workspace();
  Pages pages(*model);
  pages.grow(40);
  const SequenceSlice first = pages.slice(std::span(ids_).first(20), 0);
  EXPECT_TRUE(model->forward({&first, 1}, *workspace, gang, nullptr));
  const SequenceSlice slice = pages.slice(std::span(ids_).subspan(20, 17), 20);
  for (int n = 0; n < 6; ++n) {
    Watch watch(n);
    EXPECT_FALSE(model->forward({&slice, 1}, *workspace, gang, &watch));
    EXPECT_EQ(watch.n_asked, n + 1);
  }
  Watch patient(6);
  EXPECT_TRUE(model->forward({&slice, 1}, *workspace, gang, &patient));
  EXPECT_EQ(patient.n_asked, 6);
  std::vector<float> out(static_cast<size_t>(model->n_vocab()));
  const int32_t row = 16;
  model->logits({&row, 1}, *workspace, gang, out.data());
  EXPECT_EQ(0, std::memcmp(out.data(), want.data() + 36 * out.size(), out.size() * 4));
}

TEST(PageGroupsTest, HoldTheLayersOfTheirKind) {
  const auto llama = random_model("llama", 2);
  const size_t of_a_layer = 2 * kPageTokens * gguf::kHeadDim * 2;
  EXPECT_EQ(llama->page_bytes(PageGroup::kFull), 2 * of_a_layer);
  EXPECT_EQ(llama->page_bytes(PageGroup::kWindow), 0u);
  EXPECT_EQ(llama->window(), 0);
  const auto gemma = random_model("gemma3", 7);
  EXPECT_EQ(gemma->page_bytes(PageGroup::kFull), of_a_layer);
  EXPECT_EQ(gemma->page_bytes(PageGroup::kWindow), 6 * of_a_layer);
  EXPECT_EQ(gemma->window(), kWindow);
  EXPECT_EQ(random_model("gemma3", 1)->page_bytes(PageGroup::kFull), 0u);
}

TEST(CacheTypeTest, RefusesHeadsThatQ8DoesNotFit) {
  try {
    random_model("llama", 1, CacheType::kQ8_0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupportedModel);
    EXPECT_NE(std::string(error.what()).find("cache_type"), std::string::npos);
  }
}

}  // namespace
}  // namespace smallmind
