// Who is let in when memory is short.
#include <gtest/gtest.h>

#include <vector>

#include "engine/fake_engine.h"
#include "smallmind/error.h"

namespace smallmind::testing {
namespace {

// Pages for one sequence of up to 128 tokens.
EngineOptions tight() {
  EngineOptions options;
  options.kv_limit = 4 * FakeModel::kPageBytes;
  options.max_buffered_tokens = 4;
  return options;
}

std::vector<int32_t> ids_of(const std::vector<Token>& tokens) {
  std::vector<int32_t> ids;
  for (const Token& token : tokens) ids.push_back(token.id);
  return ids;
}

// L-06: a reader that does not read holds nobody up, even where memory is for one only; when it
// reads on, it gets what it would have got.
TEST(AdmissionTest, AReaderThatIsBehindKeepsNoMemoryFromOthers) {
  FakeEngine engine(2, tight());
  const auto slow = engine.session();
  const auto stream = slow->start_text("slow", greedy(40), {});
  std::vector<Token> read(1);
  ASSERT_EQ(stream->next(read[0], kForever), Stream::Status::kToken);
  for (int i = 0; i < 3; ++i) {
    const auto session = engine.session();
    const std::string prompt = "other" + std::to_string(i);
    EXPECT_EQ(generate(*session, prompt, greedy(60)).token_ids,
              fake_greedy(prompt_ids(prompt), 60));
  }
  for (const Token& token : read_all(*stream)) read.push_back(token);
  EXPECT_EQ(ids_of(read), fake_greedy(prompt_ids("slow"), 40));
  EXPECT_TRUE(engine.becomes_idle(engine->status().n_kv_pages));
  EXPECT_EQ(engine.controls->n_violations, 0);
}

// What can never fit is refused at once, and says what it needs.
TEST(AdmissionTest, WhatCanNeverFitIsRefusedAtOnce) {
  FakeEngine engine(2, tight());
  const auto session = engine.session();
  try {
    session->start_text("x", greedy(200), collecting());
    FAIL() << "was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kMemoryBudget);
    EXPECT_EQ(error.code(), "MEMORY_BUDGET_EXCEEDED");
    EXPECT_NE(std::string(error.what()).find("kv_limit"), std::string::npos);
  }
  EXPECT_EQ(session->size(), 0);
  // Without max_tokens, what fits is what is generated.
  SamplingParams params;
  params.temperature = 0;
  params.ignore_eos = true;
  EXPECT_EQ(generate(*session, "x", params).token_ids.size(), 128u - 2u);
}

}  // namespace
}  // namespace smallmind::testing
