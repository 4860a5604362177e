// Requests that meet want of room, poison and crowds: each ends as it would alone, or with its own
// error, and nobody waits for ever.
#include <gtest/gtest.h>

#include <thread>

#include "engine/fake_engine.h"
#include "smallmind/error.h"

namespace smallmind::testing {
namespace {

using std::chrono::milliseconds;
constexpr Clock::duration kLongEnough = std::chrono::seconds(20);

SamplingParams endless() {
  SamplingParams params = greedy(100'000);
  params.ignore_eos = true;
  return params;
}

EngineOptions with_pages(uint64_t n) {
  EngineOptions options;
  options.kv_limit = n * FakeModel::kPageBytes;
  return options;
}

// What waits for memory runs when the last one that had it ends, although nobody closes, reads or
// calls anything meanwhile. (Found by the simulation: it slept until the next call.) L-03
TEST(AdversityTest, TheEndOfTheLastRunningRequestAdmitsWhoWaitsForMemory) {
  for (int round = 0; round < 20; ++round) {
    FakeEngine engine(1, with_pages(24), 640);
    const auto first = engine.session();
    const auto second = engine.session();
    const auto running = first->start_text(std::string(500, 'a'), greedy(30), collecting());
    const auto waiting = second->start_text(std::string(500, 'b'), greedy(30), collecting());
    ASSERT_EQ(waiting->wait_end(kLongEnough), Stream::Status::kEnd) << "waits in vain";
    ASSERT_EQ(running->wait_end(kLongEnough), Stream::Status::kEnd);
    EXPECT_EQ(waiting->result().token_ids, fake_greedy(prompt_ids(std::string(500, 'b')), 30));
  }
}

// L-04, B17: a deadline that passes in the queue ends the request there; it is never started.
TEST(AdversityTest, ADeadlineInTheQueueEndsARequestThatNeverStarts) {
  FakeEngine engine(1, with_pages(24), 640);
  engine.controls->step_micros = 2000;
  const auto first = engine.session();
  const auto running = first->start_text(std::string(200, 'a'), endless(), collecting());
  while (engine->status().n_running == 0) std::this_thread::yield();
  RequestOptions options = collecting();
  options.timeout_s = 0.1;
  const auto second = engine.session();
  const int64_t n_computed = engine->status().n_computed_tokens;
  const auto begin = Clock::now();
  const auto waiting = second->start_text(std::string(600, 'b'), greedy(30), options);
  EXPECT_EQ(waiting->wait_end(kLongEnough), Stream::Status::kEnd);
  EXPECT_LT(Clock::now() - begin, milliseconds(300));
  EXPECT_EQ(waiting->result().finish_reason, FinishReason::kTimeout);
  EXPECT_TRUE(waiting->result().token_ids.empty());
  EXPECT_LE(engine->status().n_computed_tokens, n_computed + 201);  // the first one's own
  running->close();
  EXPECT_TRUE(engine.becomes_idle(engine->status().n_kv_pages));
}

// beside one with poisoned logits, one that is cancelled and one whose step has no memory,
// everybody else's tokens are those of a solo run.
TEST(AdversityTest, NeighboursOfPoisonAndCancelsAreAsAlone) {
  FakeEngine engine;
  std::vector<std::shared_ptr<Session>> sessions;
  std::vector<std::shared_ptr<Stream>> streams;
  for (int i = 0; i < 29; ++i) {
    sessions.push_back(engine.session());
    streams.push_back(
        sessions.back()->start_text(std::string(1 + 7 * i, 'a' + i % 5), greedy(40), collecting()));
  }
  const std::vector<int32_t> poison = {1, 2, kPoison, 3};
  const auto poisoned_session = engine.session();
  const auto poisoned = poisoned_session->start_ids(poison, greedy(40), collecting());
  const auto cancelled_session = engine.session();
  const auto cancelled =
      cancelled_session->start_text(std::string(900, 'x'), endless(), collecting());
  EXPECT_THROW(poisoned->wait_end(kLongEnough), Error);
  cancelled->cancel();
  for (int i = 0; i < 29; ++i) {
    ASSERT_EQ(streams[static_cast<size_t>(i)]->wait_end(kLongEnough), Stream::Status::kEnd);
    EXPECT_EQ(streams[static_cast<size_t>(i)]->result().token_ids,
              fake_greedy(prompt_ids(std::string(1 + 7 * i, 'a' + i % 5)), 40));
  }
}

// L-05: forty requests of one key do not keep another key's out.
TEST(AdversityTest, ANoisyKeyLeavesAQuietOneItsShare) {
  FakeEngine engine;
  engine.controls->step_micros = 400;
  SessionOptions quiet_options;
  quiet_options.fairness_key = "quiet";
  const auto steps_of_quiet = [&] {
    const auto session = engine->text_session(quiet_options);
    const int before = engine.controls->n_steps;
    generate(*session, "quiet", greedy(20));
    return engine.controls->n_steps - before;
  };
  const int alone = steps_of_quiet();
  SessionOptions noisy_options;
  noisy_options.fairness_key = "noisy";
  std::vector<std::shared_ptr<Session>> sessions;
  std::vector<std::shared_ptr<Stream>> streams;
  for (int i = 0; i < 100; ++i) {
    sessions.push_back(engine->text_session(noisy_options));
    streams.push_back(sessions.back()->start_text(std::string(300 + i, 'n'), endless(), {}));
  }
  while (engine->status().n_running < 32) std::this_thread::yield();
  EXPECT_LE(steps_of_quiet(), 2 * alone + 6);
}

}  // namespace
}  // namespace smallmind::testing
