// What an engine holds stands in its ledger, by category (D6).
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <thread>

#include "allocation_counter.h"
#include "base/gang.h"
#include "base/tracking_allocator.h"
#include "engine/engine_impl.h"
#include "gguf/model_bytes.h"
#include "model/model.h"
#include "smallmind/stream.h"
#include "smallmind/tokenizer.h"

namespace smallmind::testing {
namespace {

using Category = MemoryCategory;

// Of an engine with a KV limit of 4 MiB and one session that keeps 139 ids.
void expect_itemised(Engine& engine, Session& session) {
  EngineMemory memory = engine.memory();
  EXPECT_GT(memory.kv_in_use, 0u);
  EXPECT_LE(memory.kv_in_use + memory.kv_cached, memory.kv);
  EXPECT_EQ(memory.kv_limit, 4u << 20);
  // The loop lets go of the request a little later.
  const auto is_history_only = [&] { return engine.memory().requests <= 256 * sizeof(int32_t); };
  const auto latest = Clock::now() + std::chrono::seconds(10);
  while (!is_history_only() && Clock::now() < latest) std::this_thread::yield();
  memory = engine.memory();
  EXPECT_TRUE(is_history_only());
  EXPECT_GE(memory.requests, 139 * sizeof(int32_t));
  EXPECT_EQ(memory.total,
            memory.weights + memory.kv + memory.workspace + memory.tokenizer + memory.requests);
  session.reset();
  EXPECT_EQ(engine.memory().requests, 0u);
}

TEST(LedgerTest, HoldsWhatTheEngineHolds) {
  for (const char* architecture : {"llama", "gemma3"}) {
    const auto ledger = std::make_shared<MemoryLedger>();
    const std::string bytes = gguf::ModelBytes(architecture, 4096).all();
    const auto source = memory_source(std::as_bytes(std::span(bytes)));
    const gguf::Header header = gguf::parse(*source);
    auto gang = std::make_unique<Gang>(2);
    std::shared_ptr<const Model> model =
        load_model(header, *source, CacheType::kBf16, *gang, {}, ledger);
    EXPECT_EQ(ledger->snapshot().total_live, static_cast<int64_t>(model->weight_bytes()));
    const std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::from_metadata(header.metadata);
    EngineOptions options;
    options.kv_limit = 4 << 20;
    const int64_t before = n_bytes_of_this_thread();
    auto engine =
        EngineImpl::create(std::move(model), tokenizer, std::move(gang), options, {}, ledger);
    const int64_t asked_for = n_bytes_of_this_thread() - before;

    MemoryLedger::Snapshot held = ledger->snapshot();
    EXPECT_EQ(held.bytes_of(Category::kWeights), static_cast<int64_t>(engine->info().weight_bytes));
    EXPECT_EQ(held.bytes_of(Category::kTokenizer), static_cast<int64_t>(tokenizer->memory_bytes()));
    EXPECT_EQ(held.bytes_of(Category::kKv), 0);
    EXPECT_EQ(held.bytes_of(Category::kRequests), 0);
    // Most of what was asked of the system is buffers of a step.
    EXPECT_LE(held.bytes_of(Category::kWorkspace), asked_for);
    EXPECT_GE(held.bytes_of(Category::kWorkspace), asked_for * 3 / 4);

    auto session = engine->text_session({});
    SamplingParams params;
    params.max_tokens = 100;
    params.ignore_eos = true;
    RequestOptions request;
    request.collect_only = true;
    auto stream = session->start_ids(std::vector<int32_t>(40, 3), params, request);
    // The prompt, the context that grows from it, and the record of ids.
    EXPECT_GE(ledger->snapshot().bytes_of(Category::kRequests), (40 + 140 + 100) * 4);
    stream->wait_end(Clock::duration::max());
    held = ledger->snapshot();
    EXPECT_GE(held.bytes_of(Category::kKv), static_cast<int64_t>(engine->status().kv_bytes));
    EXPECT_GT(held.bytes_of(Category::kKv), 0);
    EXPECT_LE(held.bytes_of(Category::kKv), 4 << 20);
    EXPECT_GE(held.peak_live, held.total_live);
    stream.reset();
    expect_itemised(*engine, *session);

    engine->close();
    EXPECT_EQ(ledger->snapshot().bytes_of(Category::kKv), 0);
    EXPECT_EQ(ledger->snapshot().bytes_of(Category::kWorkspace), 0);
    engine.reset();
    EXPECT_GT(ledger->snapshot().total_live, 0);  // the session keeps the engine
    session.reset();
    EXPECT_EQ(ledger->snapshot().total_live, 0);
    EXPECT_EQ(ledger.use_count(), 1);
  }
}

}  // namespace
}  // namespace smallmind::testing
