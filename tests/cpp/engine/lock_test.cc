// No lock of ours is held while computing, tokenising or calling out, and the whole life of an
// engine takes locks in their order (D21, D22, P-06). Builds that check the order (Debug,
// sanitizers) know what a thread holds.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/lock_order.h"
#include "engine/fake_engine.h"

namespace smallmind::testing {
namespace {

std::atomic<size_t> n_held_at_calls{0};
std::atomic<int> n_calls{0};

void note_call() {
  n_held_at_calls += LockOrder::n_held();
  ++n_calls;
}

class WatchedModel : public FakeModel {
 public:
  using FakeModel::FakeModel;
  bool forward(std::span<const SequenceSlice> slices, Workspace& workspace, Gang& gang,
               StepWatch* watch) const override {
    note_call();
    return FakeModel::forward(slices, workspace, gang, watch);
  }
  void logits(std::span<const int32_t> rows, Workspace& workspace, Gang& gang,
              float* out) const override {
    note_call();
    FakeModel::logits(rows, workspace, gang, out);
  }
  void first_ranks(std::span<RankedRow> rows, Workspace& workspace, Gang& gang) const override {
    note_call();
    FakeModel::first_ranks(rows, workspace, gang);
  }
};

class WatchedTokenizer : public FakeTokenizer {
 public:
  std::vector<int32_t> encode(std::string_view utf8, bool add_special, bool parse_special,
                              std::span<const size_t> marks) const override {
    note_call();
    return FakeTokenizer::encode(utf8, add_special, parse_special, marks);
  }
};

TEST(LockTest, NothingIsHeldWhileComputingOrCallingOut) {
  auto engine =
      EngineImpl::create(std::make_shared<WatchedModel>(std::make_shared<FakeControls>(), 2048),
                         std::make_shared<WatchedTokenizer>(), std::make_unique<Gang>(2), {}, {});
  const auto life = [&](int who) {
    const auto session = engine->text_session({});
    for (int turn = 0; turn < 30; ++turn) {
      RequestOptions options;
      options.cancel.emplace();
      const auto stream = session->start_text(std::string(20, 'a' + who), greedy(8), options);
      if (turn % 3 == 0) std::thread([&] { options.cancel->cancel(); }).join();
      if (turn % 5 == 0) options.cancel->cancel_after(0.001);
      if (turn % 7 == 0) {
        session->cancel();
        session->reset();
        continue;
      }
      read_all(*stream);
      if (turn % 4 == 0) session->fork("")->close();
    }
  };
  std::vector<std::thread> threads;
  for (int who = 0; who < 4; ++who) threads.emplace_back(life, who);
  const std::vector<int32_t> ids(300, 7);
  const std::vector<int64_t> positions = {299};
  std::vector<float> out(kVocab);
  CallHooks hooks;
  hooks.tick = [](const char*, unsigned long long, unsigned long long) { note_call(); };
  for (int i = 0; i < 10; ++i) engine->score(ids, positions, out.data(), hooks);
  for (std::thread& thread : threads) thread.join();
  engine->close();
  EXPECT_GT(n_calls, 300);
  EXPECT_EQ(n_held_at_calls, 0u);
  EXPECT_EQ(LockOrder::n_violations(), 0u);
}

}  // namespace
}  // namespace smallmind::testing
