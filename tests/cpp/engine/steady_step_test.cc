// A steady engine allocates nothing in its loop or its gang, requests that come and go included.
// A test binary of its own: it counts what operator new gives out.
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "allocation_counter.h"
#include "base/gang.h"
#include "engine/engine_impl.h"
#include "gguf/model_bytes.h"
#include "model/model.h"
#include "smallmind/stream.h"
#include "smallmind/tokenizer.h"

namespace smallmind::testing {
namespace {

// The real path from the file's bytes, over real kernels.
std::shared_ptr<EngineImpl> load_engine(const std::string& architecture) {
  const std::string bytes = gguf::ModelBytes(architecture, 4096).all();
  const auto source = memory_source(std::as_bytes(std::span(bytes)));
  const gguf::Header header = gguf::parse(*source);
  auto gang = std::make_unique<Gang>(2);
  std::shared_ptr<const Model> model = load_model(header, *source, CacheType::kBf16, *gang, {});
  EngineOptions options;
  options.kv_limit = 256 << 10;  // small: pages are evicted all the time
  return EngineImpl::create(std::move(model), Tokenizer::from_metadata(header.metadata),
                            std::move(gang), options, {});
}

struct Shape {
  double temperature = 0;
  double repeat_penalty = 1;
  bool is_read = false;  // token by token
};

// One request from its own thread; all its tokens count.
void generate(EngineImpl& engine, int i, const Shape& shape) {
  const auto session = engine.text_session({});
  SamplingParams params;
  params.max_tokens = 40 + i % 50;
  params.ignore_eos = true;
  params.temperature = shape.temperature;
  params.repeat_penalty = shape.repeat_penalty;
  params.seed = static_cast<uint64_t>(i);
  RequestOptions options;
  options.collect_only = !shape.is_read;
  std::vector<int32_t> prompt(static_cast<size_t>(5 + i * 7 % 90), 3 + i % 3);
  const auto stream = session->start_ids(prompt, params, options);
  Token token;
  while (shape.is_read && stream->next(token, Clock::duration::max()) == Stream::Status::kToken) {
  }
  stream->wait_end(Clock::duration::max());
}

// n_each requests, one after another, from each of four threads.
void run_traffic(EngineImpl& engine, int n_each, const Shape& shape) {
  std::vector<std::thread> threads;
  for (int who = 0; who < 4; ++who) {
    threads.emplace_back([&engine, &shape, who, n_each] {
      for (int i = 0; i < n_each; ++i) generate(engine, who * 1000 + i, shape);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class SteadyStepTest : public ::testing::TestWithParam<const char*> {};

TEST_P(SteadyStepTest, AThousandStepsWithComingAndGoingAllocateNothing) {
  const auto engine = load_engine(GetParam());
  for (const Shape shape : {Shape{}, Shape{0.9, 1.1, false}, Shape{0.9, 1.0, true}}) {
    run_traffic(*engine, 20, shape);  // buffers grow to their size
    const int64_t n_steps = engine->status().n_steps;
    const int64_t n_before = n_allocations_of_compute_threads();
    while (engine->status().n_steps < n_steps + 1000) run_traffic(*engine, 10, shape);
    EXPECT_EQ(n_allocations_of_compute_threads(), n_before)
        << "temperature " << shape.temperature << ", read " << shape.is_read;
  }
  EXPECT_GT(engine->status().n_evicted_pages, 0);
}

INSTANTIATE_TEST_SUITE_P(Families, SteadyStepTest, ::testing::Values("llama", "gemma3"));

}  // namespace
}  // namespace smallmind::testing
