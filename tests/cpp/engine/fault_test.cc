// P-08: the k-th allocation of the engine's threads fails, for every k that a request meets: it
// ends with its tokens or with its error, the loop lives, and the next request is as if nothing
// was.
#include <gtest/gtest.h>

#include "allocation_counter.h"
#include "engine/fake_engine.h"
#include "smallmind/error.h"

namespace smallmind::testing {
namespace {

TEST(FaultTest, EveryRefusedAllocationOfTheLoopIsSurvived) {
  FakeEngine engine;
  const std::vector<int32_t> expected = fake_greedy(prompt_ids(std::string(100, 'f')), 12);
  int n_failed = 0;
  for (int64_t k = 0; k < 400; ++k) {
    const auto session = engine.session();
    const auto other = engine.session();
    const auto beside = other->start_text("beside", greedy(8), collecting());
    fail_allocation_of_compute_threads(k);
    const auto stream = session->start_text(std::string(100, 'f'), greedy(12),
                                            k % 2 == 0 ? collecting() : RequestOptions{});
    try {
      const auto tokens = stream->wait_end(kForever);
      EXPECT_EQ(tokens, Stream::Status::kEnd);
      EXPECT_EQ(stream->result().token_ids, expected) << k;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kMemoryBudget) << k << error.what();
      ++n_failed;
    }
    try {
      beside->wait_end(kForever);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kMemoryBudget) << k << error.what();
    }
    fail_allocation_of_compute_threads(-1);
    EXPECT_EQ(generate(*engine.session(), std::string(100, 'f'), greedy(12)).token_ids, expected);
  }
  EXPECT_GT(n_failed, 10);
  EXPECT_TRUE(engine.becomes_idle());
}

}  // namespace
}  // namespace smallmind::testing
