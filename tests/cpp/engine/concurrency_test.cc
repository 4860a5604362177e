// Many threads on one engine.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "engine/fake_engine.h"
#include "smallmind/error.h"

namespace smallmind::testing {
namespace {

std::vector<GenerationResult> converse(FakeEngine& engine, int who, int n_turns) {
  const auto session = engine.session();
  std::vector<GenerationResult> results;
  for (int turn = 0; turn < n_turns; ++turn) {
    SamplingParams params;
    params.max_tokens = 20 + who % 7;
    params.temperature = who % 3 == 0 ? 0 : 0.9;
    params.seed = static_cast<uint64_t>(100 * who + turn);
    params.repeat_penalty = 1.1;
    if (who % 4 == 1) params.stop = {"e", "xy"};
    const std::string prompt(static_cast<size_t>(1 + (37 * who + 11 * turn) % 300),
                             static_cast<char>('a' + who));
    results.push_back(generate(*session, prompt, params));
  }
  return results;
}

// A1, A14, A15 to A19: sixteen threads, each its own session, each as if it were alone.
TEST(ConcurrencyTest, SixteenThreadsEqualSolo) {
  constexpr int kThreads = 16;
  constexpr int kTurns = 4;
  FakeEngine solo_engine(1);
  std::vector<std::vector<GenerationResult>> solo;
  for (int who = 0; who < kThreads; ++who) solo.push_back(converse(solo_engine, who, kTurns));
  for (int n_gang : {1, 2, 3}) {
    FakeEngine engine(n_gang);
    std::vector<std::vector<GenerationResult>> together(kThreads);
    std::vector<std::thread> threads;
    for (int who = 0; who < kThreads; ++who) {
      threads.emplace_back(
          [&, who] { together[static_cast<size_t>(who)] = converse(engine, who, kTurns); });
    }
    for (std::thread& thread : threads) thread.join();
    for (size_t who = 0; who < kThreads; ++who) {
      for (size_t turn = 0; turn < kTurns; ++turn) {
        EXPECT_EQ(together[who][turn].token_ids, solo[who][turn].token_ids);
        EXPECT_EQ(together[who][turn].text, solo[who][turn].text);
        EXPECT_EQ(together[who][turn].finish_reason, solo[who][turn].finish_reason);
      }
    }
    EXPECT_TRUE(engine.becomes_idle());
    EXPECT_EQ(engine.controls->n_violations, 0);
    EXPECT_LE(engine.controls->largest_slice, 128);
    EXPECT_EQ(engine->status().n_sessions, 0);
  }
}

// Ten thousand submits against cancels, deadlines, closes, drops and natural ends: each ends once,
// none hangs, nothing is left behind.
TEST(ConcurrencyTest, TenThousandRacesEndExactlyOnce) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 1250;
  FakeEngine engine;
  std::atomic<int> n_ended{0};
  const auto one_thread = [&](unsigned seed) {
    std::mt19937 random(seed);
    auto session = engine.session();
    for (int round = 0; round < kRounds; ++round) {
      if (session->closed()) session = engine.session();
      RequestOptions options;
      options.collect_only = random() % 2 == 0;
      options.cancel.emplace();
      if (random() % 4 == 0) options.timeout_s = 1e-5 * (1 + random() % 50);
      auto stream = session->start_text(std::string(1 + random() % 40, 'r'),
                                        greedy(1 + random() % 6), options);
      const unsigned how = random() % 7;
      std::thread attacker;
      if (random() % 16 == 0) {
        attacker = std::thread([&session, cancel = *options.cancel]() mutable {
          session->cancel();
          cancel.cancel();
        });
      }
      if (how == 0) options.cancel->cancel();
      if (how == 1) session->cancel();
      if (how == 2) stream->cancel();
      if (how == 3) session->close();
      if (how == 4) {
        stream->close();
      } else if (how == 5) {
        stream.reset();
      } else if (options.collect_only) {
        EXPECT_EQ(stream->wait_end(kForever), Stream::Status::kEnd);
      } else {
        read_all(*stream);
      }
      if (stream) {
        EXPECT_TRUE(stream->finished());
        Token token;
        if (!options.collect_only) {
          EXPECT_EQ(stream->next(token, kForever), Stream::Status::kEnd);
        }
        stream.reset();
      }
      EXPECT_FALSE(session->busy());
      if (attacker.joinable()) attacker.join();
      if (session->size() > 4000) session->reset();
      ++n_ended;
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) threads.emplace_back(one_thread, i + 1);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_ended, kThreads * kRounds);
  EXPECT_TRUE(engine.becomes_idle());
  EXPECT_EQ(engine->status().n_sessions, 0);
  EXPECT_EQ(engine.controls->n_violations, 0);
}

// B75: of the threads that race for one session, one gets it.
TEST(ConcurrencyTest, OneOfManyThreadsGetsTheSession) {
  FakeEngine engine;
  const auto session = engine.session();
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> n_got{0};
    std::atomic<int> n_busy{0};
    std::vector<std::shared_ptr<Stream>> streams(4);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < streams.size(); ++i) {
      threads.emplace_back([&, i] {
        try {
          streams[i] = session->start_text("x", greedy(2), {});
          ++n_got;
        } catch (const Error& error) {
          n_busy += error.kind() == ErrorKind::kSessionBusy ? 1 : 0;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(n_got, 1);
    ASSERT_EQ(n_busy, 3);
    streams.clear();
    session->reset();
  }
}

// A38: closing while threads generate, open sessions and score: each gets its end or the one error.
TEST(ConcurrencyTest, ClosingUnderLoadEndsEverything) {
  for (int round = 0; round < 20; ++round) {
    FakeEngine engine;
    std::atomic<int> n_other_errors{0};
    std::vector<std::thread> threads;
    for (int who = 0; who < 6; ++who) {
      threads.emplace_back([&, who] {
        const std::vector<int64_t> positions = {3, 40};
        const std::vector<int32_t> ids(50, 7);
        std::vector<float> out(2 * kVocab);
        try {
          for (;;) {
            const auto session = engine.session();
            if (who % 3 == 0) {
              engine->score(ids, positions, out.data(), {});
            } else if (who % 3 == 1) {
              read_all(*session->start_text("load", greedy(30), {}));
            } else {
              generate(*session, std::string(300, 'g'), greedy(30));
            }
          }
        } catch (const Error& error) {
          n_other_errors += error.kind() == ErrorKind::kEngineClosed ? 0 : 1;
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2 + round));
    std::thread second([&] { engine->close(); });
    engine->close();
    second.join();
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(n_other_errors, 0);
    EXPECT_EQ(engine->status().n_sessions, 0);
    EXPECT_EQ(engine->status().n_kv_pages, 0);
  }
}

// More runnable requests than a step has places: all advance.
TEST(ConcurrencyTest, AHundredSessionsAllFinish) {
  FakeEngine engine;
  std::vector<std::shared_ptr<Stream>> streams;
  for (int i = 0; i < 100; ++i) {
    streams.push_back(
        engine.session()->start_text("s" + std::to_string(i), greedy(30), collecting()));
  }
  for (int i = 0; i < 100; ++i) {
    streams[static_cast<size_t>(i)]->wait_end(kForever);
    EXPECT_EQ(streams[static_cast<size_t>(i)]->result().token_ids,
              fake_greedy(prompt_ids("s" + std::to_string(i)), 30));
  }
  EXPECT_EQ(engine.controls->n_violations, 0);
}

// The scores of every position, chunk by chunk beside generations, are the model's.
TEST(ConcurrencyTest, ScoresAreTheModelsLogits) {
  FakeEngine engine;
  std::vector<int32_t> ids;
  for (int i = 0; i < 700; ++i) ids.push_back((i * 31) % 200);
  std::vector<int64_t> positions;
  for (int64_t i = 0; i < 700; i += 3) positions.push_back(i);
  std::vector<float> out(positions.size() * kVocab);
  auto noise = engine.session()->start_text("noise", greedy(400), collecting());
  int n_ticks = 0;
  CallHooks hooks;
  hooks.tick = [&](const char* stage, unsigned long long done, unsigned long long total) {
    ++n_ticks;
    EXPECT_STREQ(stage, "score");
    EXPECT_LE(done, total);
  };
  engine->score(ids, positions, out.data(), hooks);
  EXPECT_GE(n_ticks, 1);
  for (size_t i = 0; i < positions.size(); ++i) {
    const auto context = std::span(ids).first(static_cast<size_t>(positions[i]) + 1);
    const std::vector<float> expected = fake_logits(fake_hash(context));
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), out.begin() + i * kVocab)) << i;
  }
  noise->wait_end(kForever);
  noise.reset();
  EXPECT_TRUE(engine.becomes_idle());
}

// Of a prompt the last token's; of a score's steps those from the first position asked for on.
TEST(ConcurrencyTest, AStepAsksForFewHiddenStates) {
  FakeEngine engine;
  std::vector<int32_t> ids;
  for (int i = 0; i < 700; ++i) ids.push_back((i * 31) % 200);
  const std::vector<int64_t> positions = {250, 699};
  std::vector<float> out(positions.size() * kVocab);
  engine->score(ids, positions, out.data(), {});
  for (size_t i = 0; i < positions.size(); ++i) {
    const auto context = std::span(ids).first(static_cast<size_t>(positions[i]) + 1);
    const std::vector<float> expected = fake_logits(fake_hash(context));
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), out.begin() + i * kVocab)) << i;
  }
  const int64_t after_score = engine.controls->n_outputs;
  EXPECT_GE(after_score, 2);
  EXPECT_LE(after_score, kMaxBatchTokens + 1);  // at most the whole step with position 250
  const std::string prompt(600, 'x');
  engine.session()->start_text(prompt, greedy(3), collecting())->wait_end(kForever);
  EXPECT_LE(engine.controls->n_outputs - after_score, 3);
  EXPECT_GE(engine.controls->n_outputs - after_score, 1);
}

TEST(ConcurrencyTest, ScoreIsCancelledByTokenAndByTick) {
  FakeEngine engine;
  engine.controls->step_micros = 20'000;
  const std::vector<int32_t> ids(4000, 1);
  const std::vector<int64_t> positions = {3999};
  std::vector<float> out(kVocab);
  CallHooks hooks;
  hooks.cancel.cancel_after(0.05);
  const auto begin = Clock::now();
  try {
    engine->score(ids, positions, out.data(), hooks);
    ADD_FAILURE() << "not cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDeadline);
  }
  EXPECT_LT(Clock::now() - begin, std::chrono::milliseconds(250));
  CallHooks throwing;
  throwing.tick = [](const char*, unsigned long long, unsigned long long) {
    throw std::runtime_error("tick");
  };
  EXPECT_THROW(engine->score(ids, positions, out.data(), throwing), std::runtime_error);
  EXPECT_TRUE(engine.becomes_idle());
  const std::vector<int32_t> poison = {1, kPoison};
  const std::vector<int64_t> last = {1};
  EXPECT_THROW(engine->score(poison, last, out.data(), {}), Error);  // G-65
  for (const std::vector<int64_t>& bad :
       {std::vector<int64_t>{2}, std::vector<int64_t>{-1}, std::vector<int64_t>{1, 1}}) {
    EXPECT_THROW(engine->score(poison, bad, out.data(), {}), Error);
  }
}

}  // namespace
}  // namespace smallmind::testing
