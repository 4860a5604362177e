// What the loop computes in turns: generations and score jobs, seen alike by plan and run.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/tracking_allocator.h"
#include "engine/fair_share.h"
#include "engine/score_job.h"
#include "engine/token_channel.h"
#include "sampling/sampler.h"
#include "serving/kv_cache.h"
#include "serving/text_assembler.h"
#include "smallmind/tokenizer.h"

namespace smallmind {

// The engine's constants that tasks need.
struct TaskEnvironment {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> end_ids;  // ascending: what ends a generation
};

// Made complete in the caller's thread, memory for its whole run included; from then on the loop
// thread's, except where a method says otherwise.
class Task {
 public:
  // For a context of at most n_total tokens; see KvCache.
  Task(std::shared_ptr<KeyAccount> key, int64_t n_total, std::shared_ptr<KvHold> hold,
       const std::string& salt)
      : account(std::move(key)), kv_(n_total, std::move(hold), salt) {}
  virtual ~Task() = default;
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  // Looks at what other threads want of it.
  virtual TokenChannel::LoopView poll() = 0;
  // Whether it is over; cheap, asked amid a step.
  virtual bool is_ended() const = 0;
  virtual std::shared_ptr<Waker> fail(std::shared_ptr<const Error> error) = 0;
  virtual std::span<const int32_t> context() const = 0;
  // Tokens of the context that count as prompt.
  virtual int64_t n_prompt() const = 0;
  virtual void note_first_step() {}
  // Tokens that still have to be computed.
  virtual int64_t n_left() const = 0;
  // How many of the next n tokens, the last of them, it needs the hidden states of.
  virtual int64_t n_outputs(int64_t n) const = 0;
  virtual Clock::time_point deadline() const { return Clock::time_point::max(); }
  KvCache& kv() { return kv_; }
  const KvCache& kv() const { return kv_; }

  const std::shared_ptr<KeyAccount> account;
  uint64_t arrival = 0;
  uint64_t last_step = 0;  // 0: not yet served
  double overtaken_seconds = 0;
  bool is_alive = true;  // this and the next as of the last poll()
  bool is_runnable = true;
  int64_t n_counted_reused = 0;

 private:
  KvCache kv_;
};

// A request in the making: context, sampler, text.
class GenerationTask final : public Task {
 public:
  GenerationTask(std::shared_ptr<TokenChannel> channel,
                 std::shared_ptr<const TaskEnvironment> environment);

  TokenChannel::LoopView poll() override { return channel_->poll(); }
  bool is_ended() const override { return channel_->is_ended(); }
  std::shared_ptr<Waker> fail(std::shared_ptr<const Error> error) override {
    return channel_->fail(std::move(error));
  }
  std::span<const int32_t> context() const override { return context_; }
  int64_t n_prompt() const override {
    return static_cast<int64_t>(channel_->spec().context.size());
  }
  void note_first_step() override { channel_->note_first_step(kv().n_reused()); }
  int64_t n_left() const override { return static_cast<int64_t>(context_.size()) - kv().size(); }
  int64_t n_outputs(int64_t n) const override { return n == n_left() ? 1 : 0; }
  Clock::time_point deadline() const override {
    return channel_->spec().token.deadline().value_or(Clock::time_point::max());
  }

  // Chooses the next token from its row, which it may change. Any one thread at a time: rows of
  // one step are sampled side by side. Throws Error(kInference).
  void choose(std::span<float> row, SamplerScratch& scratch, Choice& choice);
  // The same from the row's first ranks, where n_deciding() is not 0 and so many are given.
  size_t n_deciding() const { return sampler_.n_deciding(); }
  void choose(std::span<const TokenLogit> ranks, SamplerScratch& scratch, Choice& choice) const;
  // Extends the context and hands the token to the reader, or ends the generation.
  std::shared_ptr<Waker> publish(Choice& choice);

 private:
  bool is_end(int32_t id) const;
  std::optional<TokenLogprob> describe(Choice& choice) const;

  const std::shared_ptr<TokenChannel> channel_;
  const std::shared_ptr<const TaskEnvironment> environment_;
  std::vector<int32_t> context_;
  const MemoryCharge charge_;
  Sampler sampler_;
  TextAssembler text_;
  int64_t n_generated_ = 0;
};

// A score() call, with KV of its own that goes with it.
class ScoreTask final : public Task {
 public:
  // The ledger may be null.
  ScoreTask(std::shared_ptr<ScoreJob> job, std::shared_ptr<KeyAccount> key,
            std::shared_ptr<MemoryLedger> ledger);

  TokenChannel::LoopView poll() override;
  bool is_ended() const override { return is_finished_ || job_->is_cancelled(); }
  std::shared_ptr<Waker> fail(std::shared_ptr<const Error> error) override;
  std::span<const int32_t> context() const override { return job_->ids(); }
  int64_t n_prompt() const override { return 0; }  // counted nowhere
  int64_t n_left() const override;
  int64_t n_outputs(int64_t n) const override;

  // Of n tokens from `first_position` on, whose rows begin at `first_row`, the rows that the caller
  // wants, and where they go.
  std::vector<int32_t> wanted_rows(int64_t first_position, int64_t n, int32_t first_row) const;
  float* next_out(int64_t n_vocab) const;
  // Those rows are written; ends the job after the last.
  void note_written(size_t n_rows);

 private:
  const std::shared_ptr<ScoreJob> job_;
  const MemoryCharge charge_;
  size_t n_written_ = 0;
  bool is_finished_ = false;
};

}  // namespace smallmind
