// Ends that come from outside: callers, deadlines, closing, dropping.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <thread>

#include "engine/fake_engine.h"
#include "smallmind/error.h"

namespace smallmind::testing {
namespace {

using std::chrono::milliseconds;

SamplingParams endless() {
  SamplingParams params = greedy(100'000);
  params.ignore_eos = true;
  return params;
}

ErrorKind kind_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.kind();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorKind::kInference;
}

// B18, B28: the reader is back at once although a step of 400 ms is running.
TEST(CancelTest, CallerIsFreeWhileAStepIsRunning) {
  FakeEngine engine;
  engine.controls->step_micros = 400'000;
  for (const bool by_session : {false, true}) {
    const auto session = engine.session();
    const auto stream = session->start_text(std::string(4000, 'p'), endless(), collecting());
    std::this_thread::sleep_for(milliseconds(30));
    Clock::time_point cancelled_at;
    std::thread canceller([&] {
      std::this_thread::sleep_for(milliseconds(20));
      cancelled_at = Clock::now();
      by_session ? session->cancel() : stream->cancel();
    });
    EXPECT_EQ(stream->wait_end(kForever), Stream::Status::kEnd);
    const auto returned_at = Clock::now();
    canceller.join();
    EXPECT_LT(returned_at - cancelled_at, milliseconds(50));
    EXPECT_EQ(stream->result().finish_reason, FinishReason::kCancelled);
    EXPECT_FALSE(session->busy());
    EXPECT_EQ(session->size(), 4001);  // the prompt stays
  }
  EXPECT_TRUE(engine.becomes_idle());
}

// B17, B19, B26: the clock ends it, and is told apart from the caller.
TEST(CancelTest, DeadlineEndsWithTimeoutAndTokenWithCancelled) {
  FakeEngine engine;
  engine.controls->step_micros = 300'000;
  RequestOptions options = collecting();
  options.timeout_s = 0.05;
  options.cancel.emplace();
  const auto begin = Clock::now();
  EXPECT_EQ(generate(*engine.session(), "x", endless(), options).finish_reason,
            FinishReason::kTimeout);
  EXPECT_LT(Clock::now() - begin, milliseconds(150));
  options.timeout_s = 60;
  std::thread canceller([&] {
    std::this_thread::sleep_for(milliseconds(30));
    options.cancel->cancel();
  });
  EXPECT_EQ(generate(*engine.session(), "x", endless(), options).finish_reason,
            FinishReason::kCancelled);
  canceller.join();
  // Cancelled before the call: an empty, cancelled result, no error.
  const GenerationResult late = generate(*engine.session(), "x", endless(), options);
  EXPECT_EQ(late.finish_reason, FinishReason::kCancelled);
  EXPECT_TRUE(late.token_ids.empty());
  EXPECT_TRUE(engine.becomes_idle());
}

TEST(CancelTest, ShortenedDeadlineWakesTheReader) {
  FakeEngine engine;
  engine.controls->step_micros = 200'000;
  RequestOptions options = collecting();
  options.cancel.emplace();
  std::thread shortener([&] {
    std::this_thread::sleep_for(milliseconds(20));
    options.cancel->cancel_after(0.02);
  });
  const auto begin = Clock::now();
  EXPECT_EQ(generate(*engine.session(), "x", endless(), options).finish_reason,
            FinishReason::kTimeout);
  EXPECT_LT(Clock::now() - begin, milliseconds(130));
  shortener.join();
}

// A31: from inside the loop; what was made can still be read, and the session keeps what was.
TEST(CancelTest, TokensMadeBeforeTheCancelCanBeRead) {
  FakeEngine engine;
  const auto session = engine.session();
  const auto stream = session->start_text("abc", endless(), {});
  Token token;
  std::vector<int32_t> ids;
  while (ids.size() < 5) {
    ASSERT_EQ(stream->next(token, kForever), Stream::Status::kToken);
    ids.push_back(token.id);
  }
  stream->cancel();
  EXPECT_TRUE(session->busy());
  std::string text = stream->result().text;
  for (const Token& more : read_all(*stream)) {
    ids.push_back(more.id);
    text += more.text;
  }
  EXPECT_TRUE(stream->finished());
  EXPECT_EQ(stream->result().text, text);
  EXPECT_EQ(text, FakeTokenizer().decode(ids, true));
  EXPECT_EQ(ids, fake_greedy(prompt_ids("abc"), ids.size()));
  EXPECT_FALSE(session->busy());
  std::vector<int32_t> context = prompt_ids("abc");
  context.insert(context.end(), ids.begin(), ids.end());
  EXPECT_EQ(session->token_ids(), context);
}

TEST(CancelTest, ClosingKeepsThePromptAndTheTokensRead) {
  FakeEngine engine;
  const auto session = engine.session();
  Token token;
  std::vector<int32_t> context = prompt_ids("abc");
  {
    const auto stream = session->start_text("abc", endless(), {});
    for (int i = 0; i < 3; ++i) {
      ASSERT_EQ(stream->next(token, kForever), Stream::Status::kToken);
      context.push_back(token.id);
    }
    // Dropped here.
  }
  EXPECT_FALSE(session->busy());
  EXPECT_EQ(session->token_ids(), context);
  // The loop has computed further than was read: the next turn must not see that.
  context.push_back('z');
  EXPECT_EQ(generate(*session, "z", greedy(10)).token_ids, fake_greedy(context, 10));
}

// A11 to A13, B75: the message says what is open and how to end it.
TEST(CancelTest, BusySessionSaysSoAndNamesCancel) {
  FakeEngine engine;
  SessionOptions options;
  options.id = "busy-one";
  const auto session = engine->text_session(options);
  const auto stream = session->start_text("abc", endless(), {});
  for (int i = 0; i < 2; ++i) {
    try {
      session->start_text("def", greedy(1), {});
      ADD_FAILURE() << "a second call was let in";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kSessionBusy);
      EXPECT_NE(std::string(error.what()).find("session.cancel()"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("busy-one"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("a stream"), std::string::npos);
    }
  }
  EXPECT_EQ(kind_of([&] { session->reset(); }), ErrorKind::kSessionBusy);
  // As named: after cancel() the session is free, though the old stream is still held.
  Token token;
  ASSERT_EQ(stream->next(token, kForever), Stream::Status::kToken);
  session->cancel();
  EXPECT_EQ(generate(*session, "q", greedy(2)).usage.prompt_tokens, 4 + 1 + 1);
  EXPECT_EQ(stream->next(token, kForever), Stream::Status::kEnd);
}

TEST(CancelTest, ClosedSessionsAndEnginesSaySo) {
  FakeEngine engine;
  const auto session = engine.session();
  const auto other = engine.session();
  const auto stream = session->start_text("abc", endless(), {});
  session->close();
  session->close();
  EXPECT_TRUE(session->closed());
  read_all(*stream);
  EXPECT_EQ(stream->result().finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(kind_of([&] { session->start_text("x", greedy(1), {}); }), ErrorKind::kSessionClosed);
  EXPECT_TRUE(engine.becomes_idle());
  const auto running = other->start_text("abc", endless(), {});
  engine->close();
  engine->close();
  Token token;
  EXPECT_EQ(kind_of([&] { running->next(token, kForever); }), ErrorKind::kEngineClosed);
  EXPECT_EQ(kind_of([&] { running->wait_end(kForever); }), ErrorKind::kEngineClosed);
  EXPECT_EQ(kind_of([&] { other->start_text("x", greedy(1), {}); }), ErrorKind::kEngineClosed);
  EXPECT_EQ(kind_of([&] { engine->text_session({}); }), ErrorKind::kEngineClosed);
  EXPECT_FALSE(other->busy());
  const EngineStatus status = engine->status();
  EXPECT_EQ(status.n_running, 0);
  EXPECT_EQ(status.n_kv_pages, 0);
}

// A39: streams keep session and engine alive; dropping the last handle frees all.
TEST(CancelTest, StreamOutlivesSessionAndEngineHandles) {
  std::shared_ptr<Stream> stream;
  std::weak_ptr<EngineImpl> engine_alive;
  {
    FakeEngine engine;
    engine_alive = engine.engine;
    stream = engine.session()->start_text("abc", greedy(20), {});
  }
  std::vector<int32_t> ids;
  for (const Token& token : read_all(*stream)) ids.push_back(token.id);
  EXPECT_EQ(ids, fake_greedy(prompt_ids("abc"), 20));
  EXPECT_FALSE(engine_alive.expired());
  stream.reset();
  EXPECT_TRUE(engine_alive.expired());
}

// B27: a reader that does not read stops its own generation only, and only for so long.
TEST(CancelTest, SlowReaderPausesItsRequestOnly) {
  FakeEngine engine;
  const auto slow = engine.session();
  const auto stream = slow->start_text("slow", endless(), {});
  std::this_thread::sleep_for(milliseconds(100));
  const int64_t n_before = engine.controls->n_tokens;
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(engine.controls->n_tokens, n_before);  // paused, nothing spins
  EXPECT_LE(n_before, 5 + 256 + 2);
  EXPECT_EQ(generate(*engine.session(), "fast", greedy(10)).token_ids,
            fake_greedy(prompt_ids("fast"), 10));
  Token token;
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(stream->next(token, kForever), Stream::Status::kToken);
  EXPECT_EQ(token.index, 999);
  // Who waits for the end only lifts the pause.
  RequestOptions options;
  options.timeout_s = 5;
  SamplingParams params = greedy(700);
  params.ignore_eos = true;
  const auto waiting = engine.session()->start_text("wait", params, options);
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(waiting->wait_end(kForever), Stream::Status::kEnd);
  EXPECT_EQ(waiting->result().token_ids.size(), 700u);
}

TEST(CancelTest, DeadlineEndsAPausedRequest) {
  FakeEngine engine;
  RequestOptions options;
  options.timeout_s = 0.15;
  const auto session = engine.session();
  const auto stream = session->start_text("slow", endless(), options);
  std::this_thread::sleep_for(milliseconds(400));
  EXPECT_EQ(engine->status().n_running, 0);  // without the reader's help
  EXPECT_GE(read_all(*stream).size(), 256u);
  EXPECT_EQ(stream->result().finish_reason, FinishReason::kTimeout);
}

// A request of a session may come while the loop still computes the cancelled one before it.
TEST(CancelTest, NextRequestFollowsACancelledOneAtOnce) {
  FakeEngine engine;
  engine.controls->step_micros = 2'000;
  const auto session = engine.session();
  std::vector<int32_t> context;
  for (int i = 0; i < 40; ++i) {
    context.assign(200, 'a' + i % 3);
    auto stream = session->start_context(context, endless(), {});
    if (i % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(i * 100));
    stream->close();
    stream = session->start_context(context, greedy(3), collecting());
    stream->wait_end(kForever);
    ASSERT_EQ(stream->result().token_ids, fake_greedy(context, 3));
  }
}

TEST(CancelTest, WakerReportsNewsOfManyStreamsOnce) {
  FakeEngine engine;
  const auto waker = std::make_shared<Waker>();
  std::vector<std::shared_ptr<Stream>> streams;
  for (uint64_t key = 0; key < 20; ++key) {
    streams.push_back(engine.session()->start_text("w" + std::to_string(key), greedy(20), {}));
    streams.back()->attach(waker, key);
  }
  std::vector<std::vector<int32_t>> ids(20);
  size_t n_ended = 0;
  const auto give_up = Clock::now() + std::chrono::seconds(20);
  while (n_ended < 20 && Clock::now() < give_up) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(waker->fd(), &set);
    timeval limit{5, 0};
    ASSERT_EQ(select(waker->fd() + 1, &set, nullptr, nullptr, &limit), 1) << "news was lost";
    for (uint64_t key : waker->take_ready()) {
      Token token;
      Stream::Status status;
      while ((status = streams[key]->next(token, Clock::duration::zero())) ==
             Stream::Status::kToken) {
        ids[key].push_back(token.id);
      }
      if (status == Stream::Status::kEnd) ++n_ended;
    }
  }
  for (size_t key = 0; key < 20; ++key) {
    EXPECT_EQ(ids[key], fake_greedy(prompt_ids("w" + std::to_string(key)), 20));
  }
}

#if !defined(__SANITIZE_THREAD__)
// P-03: in the child everything says so at once, and letting go of it is silent; the parent goes
// on.
TEST(CancelTest, ForkedChildIsToldAndLetsGoSilently) {
  auto engine = std::make_unique<FakeEngine>();
  auto session = engine->session();
  auto stream = session->start_text("abc", endless(), {});
  const pid_t child = fork();
  if (child == 0) {
    Token token;
    int n_told = 0;
    const auto told = [&n_told](const auto& call) {
      try {
        call();
      } catch (const Error& error) {
        n_told += error.kind() == ErrorKind::kForkedProcess ? 1 : 0;
      }
    };
    told([&] { stream->next(token, kForever); });
    told([&] { session->start_text("x", greedy(1), {}); });
    told([&] { (*engine)->text_session({}); });
    told([&] { (*engine)->status(); });
    told([&] { session->token_ids(); });
    stream->close();
    session->close();
    (*engine)->close();
    stream.reset();
    session.reset();
    engine.reset();
    _exit(n_told == 5 ? 0 : 1);
  }
  int status = -1;
  for (int i = 0; i < 500 && waitpid(child, &status, WNOHANG) == 0; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  Token token;
  EXPECT_EQ(stream->next(token, kForever), Stream::Status::kToken);
}
#endif

}  // namespace
}  // namespace smallmind::testing
