// The engine's one thread: plan, run, publish.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/gang.h"
#include "engine/mailbox.h"
#include "engine/task.h"
#include "model/model.h"
#include "serving/cost_model.h"
#include "serving/page_pool.h"
#include "serving/step_plan.h"

namespace smallmind {

// Everything but the mailbox is the loop thread's, which is worker 0 of the gang. It never takes a
// lock while it computes, and never calls the program that uses the engine.
class EngineLoop {
 public:
  EngineLoop(std::shared_ptr<const Model> model, std::shared_ptr<const Tokenizer> tokenizer,
             std::unique_ptr<Gang> gang, std::shared_ptr<Mailbox> mailbox, bool keeps_kv);

  // The thread's main: returns after the mailbox was closed, with every task ended. Nothing is
  // thrown: what a turn throws fails the tasks it must.
  void run();

 private:
  // One slice of the step being run.
  struct Slice {
    Task* task = nullptr;
    int64_t n_tokens = 0;
    int64_t first_position = 0;
    int32_t first_row = 0;
  };
  // A generation whose next token this step chooses.
  struct Row {
    GenerationTask* task = nullptr;
    int32_t row = 0;
    Choice choice;
    std::shared_ptr<const Error> error;
  };

  void turn(const Mail& mail);
  void admit(const Mail& mail);
  void refresh();
  StepPlan plan() const;
  void run_step(const StepPlan& plan);
  std::vector<Slice> reserve(const StepPlan& plan);
  bool compute(const std::vector<Slice>& slices);
  void publish_rows(const std::vector<Slice>& slices);
  void publish_slab(std::span<Row> rows);
  void choose(Row& row, std::span<float> logits, SamplerScratch& scratch) noexcept;
  void write_scores(const Slice& slice, ScoreTask& task);
  void fail(Task& task, std::shared_ptr<const Error> error);
  void fail_everything(const Mail& mail, const std::shared_ptr<const Error>& error);
  void remember(const std::shared_ptr<Waker>& waker) noexcept;
  void flush_wakers();
  // The Error that is being handled; never throws, for want of memory it gives a ready-made one.
  std::shared_ptr<const Error> current_error() const noexcept;

  // Constant after construction.
  const std::shared_ptr<const Model> model_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  const std::unique_ptr<Gang> gang_;
  const std::shared_ptr<Mailbox> mailbox_;
  const bool keeps_kv_;
  const std::vector<int32_t> end_ids_;
  const TaskEnvironment environment_;
  const std::shared_ptr<const Error> out_of_memory_;
  const std::shared_ptr<const Error> closed_;
  const std::unique_ptr<Workspace> workspace_;

  // The loop thread's. Tasks go before sequences, sequences before the pool.
  PagePool pool_;
  std::unordered_map<uint64_t, std::unique_ptr<KvCache>> sequences_;
  std::vector<std::unique_ptr<Task>> tasks_;
  std::vector<SamplerScratch> scratch_;  // one a worker
  std::vector<float> logits_;            // rows of a slab
  std::vector<std::shared_ptr<Waker>> dirty_wakers_;
  CostModel cost_;
  uint64_t n_steps_ = 0;
  bool has_runnable_ = false;
  Clock::time_point wake_at_ = Clock::time_point::max();
};

}  // namespace smallmind
