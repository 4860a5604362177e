// The engine's one thread: plan, run, publish.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/gang.h"
#include "engine/fair_share.h"
#include "engine/mailbox.h"
#include "engine/task.h"
#include "model/model.h"
#include "serving/cost_model.h"
#include "serving/page_pool.h"
#include "serving/prefix_cache.h"
#include "serving/scheduler.h"
#include "serving/step_plan.h"

namespace smallmind {

// Everything but the mailbox is the loop thread's, which is worker 0 of the gang. It never takes a
// lock while it computes, and never calls the program that uses the engine. All buffers of a step
// are made at the start or with the first steps: a steady step allocates nothing.
class EngineLoop {
 public:
  EngineLoop(std::shared_ptr<const Model> model, std::unique_ptr<Gang> gang,
             std::shared_ptr<Mailbox> mailbox, const KvGeometry& geometry, uint64_t kv_limit,
             uint64_t free_cache_bytes, const std::shared_ptr<MemoryLedger>& ledger);

  // The thread's main: returns after the mailbox was closed, with every task ended. Nothing is
  // thrown: what a turn throws fails the tasks it must.
  void run();

 private:
  // One slice of the step being run.
  struct Slice {
    Task* task = nullptr;
    int64_t n_tokens = 0;
    int64_t first_position = 0;
    int64_t n_outputs = 0;  // how many of its last tokens have a row
    int32_t first_row = 0;  // the row of the first of them

    int64_t first_output() const { return first_position + n_tokens - n_outputs; }
  };
  // A generation whose next token this step chooses.
  struct Row {
    GenerationTask* task = nullptr;
    int32_t row = 0;
    bool is_chosen = false;
    Choice choice;
    std::shared_ptr<const Error> error;
  };
  // Ends a step that nobody waits for any more.
  class Watch : public StepWatch {
   public:
    explicit Watch(const EngineLoop& loop) : loop_(loop) {}
    bool is_wanted() noexcept override;

   private:
    const EngineLoop& loop_;
  };

  // --- plan ---
  void turn();
  void collect_mail();
  void refresh();
  void look_at(Task& task);
  void retire(Task& task) noexcept;
  void admit();
  bool try_to_run(const std::shared_ptr<Task>& task);
  bool set_aside_one();
  void advance_caches();
  void plan();
  void charge_plan();
  // --- run ---
  void run_step();
  void reserve();
  bool compute();
  void commit();
  // --- publish ---
  void publish_rows();
  void choose_from_ranks(std::span<Row> rows);
  void choose_from_logits(std::span<Row> rows);
  template <class Values>
  void choose(Row& row, std::span<Values> values, int worker) noexcept;
  void write_scores(const Slice& slice, ScoreTask& task);
  void report();
  void check_invariants() const;

  void fail(Task& task, std::shared_ptr<const Error> error);
  void fail_everything(const std::shared_ptr<const Error>& error);
  void remember(const std::shared_ptr<Waker>& waker) noexcept;
  void flush_wakers();
  // The Error that is being handled; never throws, for want of memory it gives a ready-made one.
  std::shared_ptr<const Error> current_error() const noexcept;

  // Constant after construction.
  const std::shared_ptr<const Model> model_;
  const std::unique_ptr<Gang> gang_;
  const std::shared_ptr<Mailbox> mailbox_;
  const std::shared_ptr<const Error> out_of_memory_;
  const std::shared_ptr<const Error> closed_;
  const std::unique_ptr<Workspace> workspace_;
  const size_t slab_rows_;  // logits rows that are sampled at a time

  // The loop thread's. Tasks go before the cache, the cache before the pool.
  PagePool pool_;
  PrefixCache cache_;
  Mail mail_;
  std::vector<std::shared_ptr<Task>> waiting_;
  std::vector<std::shared_ptr<Task>> running_;
  ActiveKeys keys_;
  EngineStatus figures_;
  CostModel cost_;
  uint64_t n_arrivals_ = 0;
  uint64_t n_steps_ = 0;
  bool has_runnable_ = false;
  Clock::time_point wake_at_ = Clock::time_point::max();

  // Of the step being planned and run.
  std::vector<RequestView> views_;
  std::vector<KeyView> key_views_;
  std::vector<WaitingView> waiting_views_;
  StepPlan plan_;
  std::vector<Slice> slices_;
  std::vector<SequenceSlice> batch_;
  std::vector<Row> rows_;
  std::vector<int32_t> row_indices_;
  std::vector<RankedRow> ranked_rows_;
  std::vector<TokenLogit> ranks_;  // [kMaxBatchSequences][kMaxRanks]
  AlignedBuffer<float> logits_;
  const MemoryCharge choice_charge_;     // of ranks_ and logits_
  std::vector<SamplerScratch> scratch_;  // one a worker
  std::vector<std::shared_ptr<Waker>> dirty_wakers_;
  Watch watch_{*this};
};

}  // namespace smallmind
