// What the loop computes in turns: generations and score jobs, seen alike by plan and run.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/score_job.h"
#include "engine/token_channel.h"
#include "sampling/sampler.h"
#include "serving/kv_cache.h"
#include "serving/text_assembler.h"
#include "smallmind/tokenizer.h"

namespace smallmind {

// The loop's constants that tasks need.
struct TaskEnvironment {
  const Tokenizer& tokenizer;
  std::span<const int32_t> end_ids;  // ascending: what ends a generation
  int64_t n_vocab = 0;
};

// The loop thread's, except where a method says otherwise.
class Task {
 public:
  virtual ~Task() = default;

  // Looks at what other threads want of it.
  virtual TokenChannel::LoopView poll() = 0;
  virtual std::shared_ptr<Waker> fail(std::shared_ptr<const Error> error) = 0;
  virtual std::span<const int32_t> context() const = 0;
  virtual KvCache& kv() = 0;
  virtual void note_first_step() {}
  // Tokens that still have to be computed.
  virtual int64_t n_left() = 0;
  virtual uint64_t sequence_key() const { return 0; }  // 0: its KV is no session's
  virtual Clock::time_point deadline() const { return Clock::time_point::max(); }

  bool is_runnable = true;  // as of the last poll()
  uint64_t last_step = 0;   // 0: not yet served
  Clock::time_point served_at = Clock::now();
};

// A request in the making: context, sampler, text.
class GenerationTask : public Task {
 public:
  GenerationTask(std::shared_ptr<TokenChannel> channel, KvCache& kv,
                 const TaskEnvironment& environment);

  TokenChannel::LoopView poll() override { return channel_->poll(); }
  std::shared_ptr<Waker> fail(std::shared_ptr<const Error> error) override {
    return channel_->fail(std::move(error));
  }
  std::span<const int32_t> context() const override { return context_; }
  KvCache& kv() override { return kv_; }
  void note_first_step() override { channel_->note_first_step(kv_.size()); }
  int64_t n_left() override { return static_cast<int64_t>(context_.size()) - kv_.size(); }
  uint64_t sequence_key() const override { return channel_->spec().sequence_key; }
  Clock::time_point deadline() const override {
    return channel_->spec().token.deadline().value_or(Clock::time_point::max());
  }
  bool is_ended() const { return channel_->is_ended(); }

  // Chooses the next token from its row, which it may change. Any one thread at a time: rows of
  // one step are sampled side by side. Throws Error(kInference).
  Choice choose(std::span<float> row, SamplerScratch& scratch);
  // Extends the context and hands the token to the reader, or ends the generation.
  std::shared_ptr<Waker> publish(Choice choice);

 private:
  bool is_end(int32_t id) const;
  std::optional<TokenLogprob> describe(Choice& choice) const;

  const std::shared_ptr<TokenChannel> channel_;
  KvCache& kv_;
  const TaskEnvironment& environment_;
  std::vector<int32_t> context_;
  Sampler sampler_;
  TextAssembler text_;
  int64_t n_generated_ = 0;
};

// A score() call, with KV of its own that goes with it.
class ScoreTask : public Task {
 public:
  ScoreTask(std::shared_ptr<ScoreJob> job, PagePool& pool) : job_(std::move(job)), kv_(pool) {}

  TokenChannel::LoopView poll() override;
  std::shared_ptr<Waker> fail(std::shared_ptr<const Error> error) override;
  std::span<const int32_t> context() const override { return job_->ids(); }
  KvCache& kv() override { return kv_; }
  int64_t n_left() override;

  // The rows of a slice of n tokens, which starts at `first_position` and at the step's row
  // `first_row`, that the caller wants, and where they go.
  std::vector<int32_t> wanted_rows(int64_t first_position, int64_t n, int32_t first_row) const;
  float* next_out(int64_t n_vocab) const;
  // Those rows are written; ends the job after the last.
  void note_written(size_t n_rows);

 private:
  const std::shared_ptr<ScoreJob> job_;
  KvCache kv_;
  size_t n_written_ = 0;
  bool is_finished_ = false;
};

}  // namespace smallmind
