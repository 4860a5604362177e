// One session at a time: context, text, limits, and what is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "engine/fake_engine.h"
#include "smallmind/error.h"

namespace smallmind::testing {
namespace {

void expect_error(ErrorKind kind, const std::vector<std::string>& words,
                  const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "nothing was thrown; expected: " << words.front();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string& word : words) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
          << "'" << error.what() << "' lacks '" << word << "'";
    }
  }
}

TEST(SessionTest, GeneratesWhatTheModelSaysGreedily) {
  FakeEngine engine;
  const auto session = engine.session();
  const GenerationResult result = generate(*session, "hello", greedy(50));
  const std::vector<int32_t> expected = fake_greedy(prompt_ids("hello"), 50);
  EXPECT_EQ(result.token_ids, expected);
  EXPECT_EQ(result.text, FakeTokenizer().decode(expected, true));
  EXPECT_EQ(result.usage.prompt_tokens, 6);  // BOS once
  EXPECT_EQ(result.usage.completion_tokens, static_cast<int64_t>(expected.size()));
  EXPECT_EQ(result.usage.cached_tokens, 0);
  EXPECT_EQ(result.usage.max_tokens, 50);
  EXPECT_EQ(result.finish_reason,
            expected.size() == 50 ? FinishReason::kLength : FinishReason::kStop);
}

// A19, A16: the context grows, BOS stands once, the KV of the first turn is used again.
TEST(SessionTest, AppendsEachPromptToItsContext) {
  FakeEngine engine;
  const auto session = engine.session();
  const GenerationResult first = generate(*session, "one", greedy(8));
  std::vector<int32_t> context = prompt_ids("one");
  context.insert(context.end(), first.token_ids.begin(), first.token_ids.end());
  EXPECT_EQ(session->token_ids(), context);
  for (char c : std::string("two")) context.push_back(c);
  const GenerationResult second = generate(*session, "two", greedy(8));
  EXPECT_EQ(second.token_ids, fake_greedy(context, 8));
  EXPECT_EQ(second.usage.prompt_tokens, static_cast<int64_t>(context.size()));
  // All but the last generated token of the first turn, whose KV nobody has computed yet.
  EXPECT_GE(second.usage.cached_tokens, 4 + static_cast<int64_t>(first.token_ids.size()) - 1);
  session->reset();
  EXPECT_EQ(session->size(), 0);
  EXPECT_EQ(generate(*session, "one", greedy(8)).token_ids, first.token_ids);
}

// A41: without the KV cache the tokens are the same and nothing is reused or kept.
TEST(SessionTest, GivesTheSameTokensWithoutKvCache) {
  EngineOptions options;
  options.enable_kv_cache = false;
  FakeEngine with;
  FakeEngine without(2, options);
  const auto a = with.session();
  const auto b = without.session();
  for (const char* prompt : {"first", " second", " third"}) {
    const GenerationResult result = generate(*b, prompt, greedy(20));
    EXPECT_EQ(generate(*a, prompt, greedy(20)).token_ids, result.token_ids);
    EXPECT_EQ(result.usage.cached_tokens, 0);
    EXPECT_TRUE(without.becomes_idle());
  }
}

TEST(SessionTest, ReusesTheCommonPrefixOfAWholeContext) {
  FakeEngine engine;
  const auto session = engine.session();
  std::vector<int32_t> context(100, 'a');
  auto stream = session->start_context(context, greedy(1), collecting());
  stream->wait_end(kForever);
  context[70] = 'b';
  stream = session->start_context(context, greedy(5), collecting());
  stream->wait_end(kForever);
  EXPECT_EQ(stream->result().usage.cached_tokens, 70);
  EXPECT_EQ(stream->result().token_ids, fake_greedy(context, 5));
  // The same again: the last prompt token is computed all the same.
  stream = session->start_context(context, greedy(5), collecting());
  stream->wait_end(kForever);
  EXPECT_EQ(stream->result().usage.cached_tokens, 99);
  EXPECT_EQ(stream->result().token_ids, fake_greedy(context, 5));
}

// one token each, valid UTF-8 in each, together the result's text.
TEST(SessionTest, StreamsOneTokenEachWithTextsThatJoinToTheResult) {
  FakeEngine engine;
  for (int i = 0; i < 50; ++i) {
    const auto session = engine.session();
    SamplingParams params = greedy(40);
    if (i % 2 == 1) params.stop = {std::string(1, static_cast<char>('a' + i % 20)), "zq"};
    const auto stream = session->start_text("prompt " + std::to_string(i), params, {});
    const std::vector<Token> tokens = read_all(*stream);
    std::string text;
    std::vector<int32_t> ids;
    for (const Token& token : tokens) {
      EXPECT_EQ(token.index, static_cast<int64_t>(ids.size()));
      EXPECT_EQ(find_invalid_utf8(token.text), std::string::npos);
      text += token.text;
      ids.push_back(token.id);
    }
    const GenerationResult result = stream->result();
    EXPECT_EQ(text, result.text);
    EXPECT_EQ(ids, result.token_ids);
    std::string expected = FakeTokenizer().decode(ids, true);
    if (!params.stop.empty()) expected = expected.substr(0, expected.find(params.stop[0]));
    EXPECT_EQ(text, expected);
  }
}

TEST(SessionTest, StopsAtTheContextsEnd) {
  FakeEngine engine(1, {}, 64);
  SamplingParams params = greedy(1000);
  params.ignore_eos = true;
  const GenerationResult result = generate(*engine.session(), "0123456789", params);
  EXPECT_EQ(result.token_ids.size(), 64u - 11);
  EXPECT_EQ(result.usage.max_tokens, 64 - 11);
  EXPECT_EQ(result.finish_reason, FinishReason::kLength);
  EXPECT_EQ(engine.controls->n_violations, 0);
}

// A-19, A42: both numbers are named; context length - 1 is the longest prompt.
TEST(SessionTest, RefusesPromptsLongerThanTheContext) {
  FakeEngine engine(1, {}, 64);
  const auto session = engine.session();
  EXPECT_EQ(generate(*session, std::string(62, 'x'), greedy(5)).token_ids.size(), 1u);
  for (size_t n : {63, 64, 100}) {
    const auto fresh = engine.session();
    expect_error(ErrorKind::kContextLength, {std::to_string(n + 1), "64"},
                 [&] { generate(*fresh, std::string(n, 'x'), greedy(5)); });
    EXPECT_FALSE(fresh->busy());
    EXPECT_EQ(fresh->size(), 0);
  }
  SessionOptions options;
  options.max_kv_tokens = 20;
  const auto small = engine->text_session(options);
  expect_error(ErrorKind::kContextLength, {"21", "20"},
               [&] { generate(*small, std::string(20, 'x'), greedy(5)); });
  EXPECT_EQ(generate(*small, std::string(10, 'x'), greedy(50)).usage.max_tokens, 9);
}

// each names the field and the value; the session and engine go on.
TEST(SessionTest, RefusesBadArgumentsAndGoesOn) {
  FakeEngine engine;
  const auto session = engine.session();
  const auto refuse = [&](const std::vector<std::string>& words, const auto& change) {
    SamplingParams params = greedy(3);
    change(params);
    expect_error(ErrorKind::kInvalidArgument, words, [&] { generate(*session, "x", params); });
    EXPECT_FALSE(session->busy());
  };
  const double nan = std::nan("");
  refuse({"max_tokens", "0"}, [](auto& p) { p.max_tokens = 0; });
  refuse({"max_tokens", "-1"}, [](auto& p) { p.max_tokens = -1; });
  refuse({"temperature", "nan"}, [&](auto& p) { p.temperature = nan; });
  refuse({"temperature", "-0.5"}, [](auto& p) { p.temperature = -0.5; });
  refuse({"temperature", "inf"}, [](auto& p) { p.temperature = INFINITY; });
  refuse({"top_p", "0"}, [](auto& p) { p.top_p = 0; });
  refuse({"top_p", "1.1"}, [](auto& p) { p.top_p = 1.1; });
  refuse({"min_p", "-1"}, [](auto& p) { p.min_p = -1; });
  refuse({"top_k", "-1"}, [](auto& p) { p.top_k = -1; });
  refuse({"repeat_penalty", "0"}, [](auto& p) { p.repeat_penalty = 0; });
  refuse({"repeat_penalty", "1e+38"}, [](auto& p) { p.repeat_penalty = 1e38; });
  refuse({"repeat_last_n", "-1"}, [](auto& p) { p.repeat_last_n = -1; });
  refuse({"presence_penalty", "nan"}, [&](auto& p) { p.presence_penalty = nan; });
  refuse({"frequency_penalty", "101"}, [](auto& p) { p.frequency_penalty = 101; });
  refuse({"logit_bias", "260", "259"}, [](auto& p) { p.logit_bias = {{kVocab, 1.0}}; });
  refuse({"logit_bias", "-1"}, [](auto& p) { p.logit_bias = {{-1, 1.0}}; });
  refuse({"logit_bias", "nan"}, [&](auto& p) { p.logit_bias = {{1, nan}}; });
  refuse({"logit_bias", "1025"}, [](auto& p) { p.logit_bias.assign(1025, {1, 1.0}); });
  refuse({"stop[0]", "0 bytes"}, [](auto& p) { p.stop = {""}; });
  refuse({"stop[1]", "257"}, [](auto& p) { p.stop = {"a", std::string(257, 'x')}; });
  refuse({"stop", "17"}, [](auto& p) { p.stop.assign(17, "x"); });
  refuse({"stop[0]", "UTF-8"}, [](auto& p) { p.stop = {"\xff"}; });
  refuse({"logprobs", "21"}, [](auto& p) { p.logprobs = 21; });
  refuse({"logprobs", "-1"}, [](auto& p) { p.logprobs = -1; });
  expect_error(ErrorKind::kInvalidArgument, {"prompt"}, [&] { generate(*session, "", greedy(3)); });
  const std::vector<int32_t> bad = {1, kVocab};
  expect_error(ErrorKind::kInvalidArgument, {"ids[1]", "260"},
               [&] { session->start_ids(bad, greedy(3), {}); });
  expect_error(ErrorKind::kInvalidArgument, {"ids"},
               [&] { session->start_context({}, greedy(3), {}); });
  RequestOptions options;
  options.timeout_s = nan;
  expect_error(ErrorKind::kInvalidArgument, {"timeout", "nan"},
               [&] { session->start_text("x", greedy(3), options); });
  EXPECT_EQ(session->size(), 0);
  EXPECT_EQ(generate(*session, "x", greedy(3)).token_ids, fake_greedy(prompt_ids("x"), 3));
}

TEST(SessionTest, RefusesBadEngineAndSessionOptions) {
  EngineOptions options;
  options.context_length = 9000;
  expect_error(ErrorKind::kInvalidArgument, {"context_length", "9000", "8192"},
               [&] { FakeEngine engine(1, options); });
  FakeEngine engine;
  SessionOptions session;
  session.max_kv_tokens = -3;
  expect_error(ErrorKind::kInvalidArgument, {"max_kv_tokens", "-3"},
               [&] { engine->text_session(session); });
  session = {};
  session.id = std::string(257, 'a');
  expect_error(ErrorKind::kInvalidArgument, {"session id", "257"},
               [&] { engine->text_session(session); });
}

// A20, A23.
TEST(SessionTest, KeepsItsIdOrMakesAUniqueOne) {
  FakeEngine engine;
  SessionOptions options;
  options.id = "user-123-session-456";
  EXPECT_EQ(engine->text_session(options)->id(), options.id);
  EXPECT_NE(engine.session()->id(), engine.session()->id());
}

TEST(SessionTest, DrawsASeedAndRepeatsWithIt) {
  FakeEngine engine;
  SamplingParams params;
  params.max_tokens = 30;
  const GenerationResult drawn = generate(*engine.session(), "seed", params);
  params.seed = drawn.seed;
  EXPECT_EQ(generate(*engine.session(), "seed", params).token_ids, drawn.token_ids);
  params.seed = drawn.seed + 1;
  EXPECT_NE(generate(*engine.session(), "seed", params).token_ids, drawn.token_ids);
}

// A generation cut in two and continued draws as one that was not.
TEST(SessionTest, ContinuesWithTheSameRandomNumbers) {
  FakeEngine engine;
  SamplingParams params;
  params.seed = 11;
  params.ignore_eos = true;
  params.max_tokens = 24;
  const std::vector<int32_t> whole = generate(*engine.session(), "cut", params).token_ids;
  const auto session = engine.session();
  params.max_tokens = 10;
  generate(*session, "cut", params);
  params.max_tokens = 14;
  const std::vector<int32_t> context = session->token_ids();
  session->start_context(context, params, collecting())->wait_end(kForever);
  const std::vector<int32_t> after = session->token_ids();
  EXPECT_EQ(std::vector(after.begin() + 4, after.end()), whole);
}

TEST(SessionTest, GivesLogprobsOfTheRawDistribution) {
  FakeEngine engine;
  SamplingParams params = greedy(5);
  params.logprobs = 3;
  params.logit_bias = {{'q', 100.0}};
  const GenerationResult result = generate(*engine.session(), "p", params);
  ASSERT_EQ(result.logprobs.size(), 5u);
  std::vector<int32_t> context = prompt_ids("p");
  for (const TokenLogprob& logprob : result.logprobs) {
    const std::vector<float> row = fake_logits(fake_hash(context));
    double sum = 0;
    for (float logit : row) sum += std::exp(static_cast<double>(logit));
    EXPECT_EQ(logprob.id, 'q');
    EXPECT_EQ(logprob.text, "q");
    EXPECT_NEAR(logprob.logprob, static_cast<double>(row['q']) - std::log(sum), 1e-9);
    ASSERT_EQ(logprob.top.size(), 3u);
    EXPECT_GE(logprob.top[0].second, logprob.top[1].second);
    EXPECT_NEAR(logprob.top[0].second,
                static_cast<double>(*std::max_element(row.begin(), row.end())) - std::log(sum),
                1e-9);
    context.push_back('q');
  }
}

// G-65, A-35: the poisoned request fails, the one beside it does not notice.
TEST(SessionTest, NonFiniteLogitsEndThatRequestOnly) {
  FakeEngine engine;
  const auto sick = engine.session();
  const auto well = engine.session();
  const std::vector<int32_t> poison = {1, 2, kPoison};
  const auto healthy = well->start_text("fine", greedy(60), {});
  for (int i = 0; i < 3; ++i) {
    const auto stream = sick->start_ids(poison, greedy(5), {});
    expect_error(ErrorKind::kInference, {"finite"}, [&] { read_all(*stream); });
    expect_error(ErrorKind::kInference, {"finite"}, [&] { read_all(*stream); });  // again
    EXPECT_FALSE(sick->busy());
    EXPECT_EQ(sick->size(), 0);  // as before the call
  }
  std::vector<int32_t> ids;
  for (const Token& token : read_all(*healthy)) ids.push_back(token.id);
  EXPECT_EQ(ids, fake_greedy(prompt_ids("fine"), 60));
}

// P-08: a step that throws fails its requests; the loop lives.
TEST(SessionTest, AThrowingStepFailsItsRequestsAndTheLoopLives) {
  FakeEngine engine;
  const auto session = engine.session();
  const std::vector<int32_t> throwing = {1, kThrowing};
  for (int i = 0; i < 20; ++i) {
    const auto stream = session->start_ids(throwing, greedy(5), collecting());
    expect_error(ErrorKind::kMemoryBudget, {"memory"}, [&] { stream->wait_end(kForever); });
  }
  EXPECT_EQ(generate(*session, "ok", greedy(9)).token_ids, fake_greedy(prompt_ids("ok"), 9));
}

TEST(SessionTest, BanningEveryTokenIsAnError) {
  FakeEngine engine;
  SamplingParams params = greedy(3);
  for (int64_t id = 0; id < kVocab; ++id) params.logit_bias.emplace_back(id, -INFINITY);
  expect_error(ErrorKind::kInference, {"no token"},
               [&] { generate(*engine.session(), "x", params); });
}

// A40: about a millisecond; measured, with slack for a loaded machine.
TEST(SessionTest, OpensAThousandSessionsQuickly) {
  FakeEngine engine;
  const auto begin = Clock::now();
  std::vector<std::shared_ptr<Session>> sessions;
  for (int i = 0; i < 1000; ++i) sessions.push_back(engine.session());
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(1));
  EXPECT_EQ(engine->status().n_sessions, 1000);
  sessions.clear();
  EXPECT_EQ(engine->status().n_sessions, 0);
}

}  // namespace
}  // namespace smallmind::testing
