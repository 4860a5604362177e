// Bounded buffers, engine-wide timeouts and forks: what a stream and its session promise.
#include <gtest/gtest.h>

#include <thread>

#include "engine/fake_engine.h"
#include "engine/token_ring.h"
#include "smallmind/error.h"

namespace smallmind::testing {
namespace {

using std::chrono::milliseconds;

SamplingParams endless(int64_t max_tokens = 7000) {
  SamplingParams params = greedy(max_tokens);
  params.ignore_eos = true;
  return params;
}

EngineOptions buffering(int64_t max_buffered_tokens, OnFull on_full) {
  EngineOptions options;
  options.max_buffered_tokens = max_buffered_tokens;
  options.on_full = on_full;
  return options;
}

std::shared_ptr<Session> named_session(const FakeEngine& engine, const std::string& id) {
  SessionOptions options;
  options.id = id;
  return engine->text_session(options);
}

// Whether, within five seconds, no request is computed or waits; sessions may keep their KV.
bool comes_to_rest(const FakeEngine& engine) {
  for (int i = 0; i < 5000; ++i) {
    const EngineStatus status = engine->status();
    if (status.n_running == 0 && status.n_queued == 0) return true;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

TEST(TokenRingTest, GivesTokensInOrderRoundAndRound) {
  TokenRing ring(3);
  int32_t next_in = 0;
  int32_t next_out = 0;
  for (int round = 0; round < 50; ++round) {
    while (ring.size() < 3) {
      Token token;
      token.id = next_in;
      token.text = std::to_string(next_in++);
      ring.push(std::move(token));
    }
    for (int n = 0; n < 1 + round % 3; ++n) {
      const Token token = ring.pop();
      EXPECT_EQ(token.id, next_out);
      EXPECT_EQ(token.text, std::to_string(next_out++));
    }
  }
  ring.clear();
  EXPECT_TRUE(ring.empty());
}

// B15, B20: the tokens that were made, then the error, each time; the session is as it was.
TEST(StreamTest, FullBufferEndsTheRequestAfterItsTokens) {
  FakeEngine engine(2, buffering(8, OnFull::kError));
  const auto session = named_session(engine, "slow-reader");
  const auto stream = session->start_text("abc", endless(), {});
  EXPECT_TRUE(comes_to_rest(engine));
  const std::vector<int32_t> expected = fake_greedy(prompt_ids("abc"), 8);
  Token token;
  ASSERT_EQ(expected.size(), 8u);
  for (const int32_t id : expected) {
    EXPECT_FALSE(stream->finished());
    ASSERT_EQ(stream->next(token, kForever), Stream::Status::kToken);
    EXPECT_EQ(token.id, id);
  }
  for (int i = 0; i < 2; ++i) {
    try {
      stream->next(token, kForever);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBufferFull);
      EXPECT_EQ(error.code(), "BACKPRESSURE_BUFFER_FULL");
      EXPECT_NE(std::string(error.what()).find("slow-reader"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("8 tokens"), std::string::npos);
    }
  }
  EXPECT_FALSE(session->busy());
  EXPECT_EQ(session->size(), 0);
}

TEST(StreamTest, BufferThatIsJustLargeEnoughIsNotFull) {
  FakeEngine engine(2, buffering(8, OnFull::kError));
  const auto stream = engine.session()->start_text("abc", endless(8), {});
  EXPECT_TRUE(comes_to_rest(engine));
  EXPECT_EQ(read_all(*stream).size(), 8u);
  EXPECT_EQ(stream->result().finish_reason, FinishReason::kLength);
}

// Whoever waits for the end has no buffer to fill.
TEST(StreamTest, CollectingCallsHaveNoLimit) {
  for (const OnFull on_full : {OnFull::kPause, OnFull::kError}) {
    FakeEngine engine(2, buffering(1, on_full));
    const GenerationResult result = generate(*engine.session(), "abc", endless(300));
    EXPECT_EQ(result.token_ids.size(), 300u);
    EXPECT_EQ(result.text, FakeTokenizer().decode(result.token_ids, true));
  }
}

// B15: pausing computes no token more than the buffer holds, but for those on their way.
TEST(StreamTest, PausedGenerationWaitsForItsReader) {
  for (const int64_t max_buffered : {1, 2, 8}) {
    FakeEngine engine(2, buffering(max_buffered, OnFull::kPause));
    const auto stream = engine.session()->start_text("abc", endless(100), {});
    std::this_thread::sleep_for(milliseconds(50));
    EXPECT_LE(engine.controls->n_tokens, 4 + max_buffered + 2);
    const std::vector<Token> tokens = read_all(*stream);
    ASSERT_EQ(tokens.size(), 100u);
    for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(tokens[i].index, static_cast<int64_t>(i));
  }
}

// With stop strings a token may be held back: it takes no place that it does not need.
TEST(StreamTest, HeldBackTokensCrossAnySizeOfBuffer) {
  SamplingParams params = endless(200);
  params.stop = {"never so much as seen"};
  FakeEngine roomy;
  const GenerationResult expected = generate(*roomy.session(), "hold", params);
  for (const int64_t max_buffered : {1, 2, 3}) {
    FakeEngine engine(2, buffering(max_buffered, OnFull::kPause));
    const auto stream = engine.session()->start_text("hold", params, {});
    std::string text;
    for (const Token& token : read_all(*stream)) text += token.text;
    EXPECT_EQ(text, expected.text);
    EXPECT_EQ(stream->result().token_ids, expected.token_ids);
  }
}

// B17, B26: the engine's limit and the call's own, whichever is earlier; callers are told apart.
TEST(StreamTest, RequestTimeoutEndsWhatTheCallDoesNot) {
  EngineOptions options;
  options.request_timeout_s = 0.05;
  FakeEngine engine(2, options);
  engine.controls->step_micros = 300'000;
  RequestOptions request = collecting();
  for (const double own : {0.0, 60.0}) {
    if (own > 0) request.timeout_s = own;
    const auto begin = Clock::now();
    EXPECT_EQ(generate(*engine.session(), "x", endless(), request).finish_reason,
              FinishReason::kTimeout);
    EXPECT_LT(Clock::now() - begin, milliseconds(150));
  }
  request.cancel.emplace();
  request.cancel->cancel();
  EXPECT_EQ(generate(*engine.session(), "x", endless(), request).finish_reason,
            FinishReason::kCancelled);
  options.request_timeout_s = 60;
  FakeEngine patient(2, options);
  patient.controls->step_micros = 300'000;
  request.cancel.reset();
  request.timeout_s = 0.05;
  EXPECT_EQ(generate(*patient.session(), "x", endless(), request).finish_reason,
            FinishReason::kTimeout);
}

// The wait of a paused request has a deadline.
TEST(StreamTest, RequestTimeoutEndsAPausedRequest) {
  EngineOptions options = buffering(4, OnFull::kPause);
  options.request_timeout_s = 0.1;
  FakeEngine engine(2, options);
  const auto stream = engine.session()->start_text("slow", endless(), {});
  EXPECT_TRUE(comes_to_rest(engine));  // without the reader's help
  EXPECT_GE(read_all(*stream).size(), 4u);
  EXPECT_EQ(stream->result().finish_reason, FinishReason::kTimeout);
}

// A call that is over before it begins needs no place in the queue.
TEST(StreamTest, CancelledCallsAreNotRefusedByAFullQueue) {
  EngineOptions options;
  options.max_queue_depth = 1;
  FakeEngine engine(2, options);
  engine.controls->step_micros = 50'000;
  std::vector<std::shared_ptr<Stream>> streams;
  try {
    for (int i = 0; i < 1000; ++i) {
      streams.push_back(engine.session()->start_text("x", endless(), collecting()));
    }
    ADD_FAILURE() << "the queue has no limit";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kQueueFull);
    EXPECT_EQ(error.code(), "BACKPRESSURE_QUEUE_FULL");
  }
  RequestOptions request = collecting();
  request.cancel.emplace();
  request.cancel->cancel();
  EXPECT_EQ(generate(*engine.session(), "x", endless(), request).finish_reason,
            FinishReason::kCancelled);
}

TEST(StreamTest, ResultsAndStreamsNameTheirSession) {
  FakeEngine engine;
  const auto session = named_session(engine, "who");
  const auto stream = session->start_text("x", greedy(2), {});
  EXPECT_EQ(stream->session_id(), "who");
  read_all(*stream);
  EXPECT_EQ(stream->result().session_id, "who");
}

TEST(SessionForkTest, ForkContinuesAsTheOriginalWould) {
  FakeEngine engine;
  const auto session = named_session(engine, "trunk");
  generate(*session, "shared beginning", greedy(20));
  const auto left = session->fork("");
  const auto right = session->fork("right");
  EXPECT_EQ(right->id(), "right");
  EXPECT_NE(left->id(), "trunk");
  EXPECT_EQ(engine->status().n_sessions, 3);
  EXPECT_EQ(left->token_ids(), session->token_ids());
  std::vector<int32_t> context = session->token_ids();
  context.push_back('l');
  EXPECT_EQ(generate(*left, "l", greedy(10)).token_ids, fake_greedy(context, 10));
  context.back() = 'r';
  EXPECT_EQ(generate(*right, "r", greedy(10)).token_ids, fake_greedy(context, 10));
  // The original has grown by nothing, and outlives its forks.
  left->close();
  context.back() = 's';
  EXPECT_EQ(generate(*session, "s", greedy(10)).token_ids, fake_greedy(context, 10));
}

TEST(SessionForkTest, ForkKeepsTheLimits) {
  FakeEngine engine;
  SessionOptions options;
  options.max_kv_tokens = 30;
  const auto fork = engine->text_session(options)->fork("");
  EXPECT_EQ(generate(*fork, std::string(19, 'x'), endless(100)).usage.max_tokens, 10);
}

TEST(SessionForkTest, BusyAndClosedSessionsDoNotFork) {
  FakeEngine engine;
  const auto session = named_session(engine, "parent");
  auto stream = session->start_text("x", endless(), {});
  const auto kind_of_fork = [&] {
    try {
      session->fork("");
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("parent"), std::string::npos);
      return error.kind();
    }
    return ErrorKind::kInference;
  };
  EXPECT_EQ(kind_of_fork(), ErrorKind::kSessionBusy);
  stream.reset();
  EXPECT_EQ(session->fork("")->size(), session->size());
  session->close();
  EXPECT_EQ(kind_of_fork(), ErrorKind::kSessionClosed);
  EXPECT_EQ(engine->status().n_sessions, 0);
}

TEST(SessionForkTest, NamesAreBounded) {
  FakeEngine engine;
  for (std::string SessionOptions::*field :
       {&SessionOptions::id, &SessionOptions::cache_salt, &SessionOptions::fairness_key}) {
    for (const std::string& bad : {std::string(257, 'x'), std::string("\xff")}) {
      SessionOptions options;
      options.*field = bad;
      EXPECT_THROW(engine->text_session(options), Error);
    }
    SessionOptions options;
    options.*field = std::string(256, 'x');
    EXPECT_NO_THROW(engine->text_session(options));
  }
}

}  // namespace
}  // namespace smallmind::testing
