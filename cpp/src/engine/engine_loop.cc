#include "engine/engine_loop.h"

#include <algorithm>
#include <new>
#include <utility>

#include "serving/scheduler.h"

namespace smallmind {
namespace {

constexpr size_t kMaxLogitsBytes = 32 << 20;
constexpr size_t kScoreRows = 16;

std::vector<int32_t> find_end_ids(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < tokenizer.n_vocab(); ++id) {
    if (tokenizer.is_end_of_generation(id)) ids.push_back(id);
  }
  return ids;
}

}  // namespace

EngineLoop::EngineLoop(std::shared_ptr<const Model> model,
                       std::shared_ptr<const Tokenizer> tokenizer, std::unique_ptr<Gang> gang,
                       std::shared_ptr<Mailbox> mailbox, bool keeps_kv)
    : model_(std::move(model)),
      tokenizer_(std::move(tokenizer)),
      gang_(std::move(gang)),
      mailbox_(std::move(mailbox)),
      keeps_kv_(keeps_kv),
      end_ids_(find_end_ids(*tokenizer_)),
      environment_{*tokenizer_, end_ids_, model_->n_vocab()},
      out_of_memory_(std::make_shared<const Error>(
          ErrorKind::kMemoryBudget, "the system refused memory that this step needed")),
      closed_(std::make_shared<const Error>(ErrorKind::kEngineClosed, "the engine was closed")),
      workspace_(model_->make_workspace()),
      pool_(model_->page_bytes(PageGroup::kFull)),
      scratch_(static_cast<size_t>(gang_->n_threads())) {}

void EngineLoop::run() {
  for (;;) {
    const Mail mail = mailbox_->take(!has_runnable_, wake_at_);
    if (mail.is_closing) {
      fail_everything(mail, closed_);
      sequences_.clear();
      mailbox_->report(0, pool_.n_in_use());
      return;
    }
    try {
      turn(mail);
    } catch (...) {
      // Only want of memory gets here, outside of any one request's work.
      fail_everything(mail, current_error());
    }
  }
}

void EngineLoop::turn(const Mail& mail) {
  refresh();  // first: a session's next request must not meet the cancelled one before it
  for (uint64_t key : mail.released_sequences) sequences_.erase(key);
  admit(mail);
  if (has_runnable_) {
    run_step(plan());
    refresh();
  }
  mailbox_->report(static_cast<int64_t>(tasks_.size()), pool_.n_in_use());
  flush_wakers();
}

void EngineLoop::admit(const Mail& mail) {
  for (const std::shared_ptr<TokenChannel>& channel : mail.requests) {
    if (channel->is_ended()) continue;
    try {
      std::unique_ptr<KvCache>& kv = sequences_[channel->spec().sequence_key];
      if (!kv) kv = std::make_unique<KvCache>(pool_);
      tasks_.push_back(std::make_unique<GenerationTask>(channel, *kv, environment_));
    } catch (...) {
      remember(channel->fail(current_error()));
    }
  }
  for (const std::shared_ptr<ScoreJob>& job : mail.scores) {
    try {
      tasks_.push_back(std::make_unique<ScoreTask>(job, pool_));
    } catch (...) {
      job->finish(current_error());
    }
  }
  if (!mail.requests.empty() || !mail.scores.empty()) refresh();
}

// Drops the tasks that have ended and sees whether and how long to wait for the next turn.
void EngineLoop::refresh() {
  has_runnable_ = false;
  wake_at_ = Clock::time_point::max();
  std::erase_if(tasks_, [this](const std::unique_ptr<Task>& task) {
    TokenChannel::LoopView view = task->poll();
    remember(view.waker);
    if (!view.is_alive) {
      if (!keeps_kv_) sequences_.erase(task->sequence_key());
      return true;
    }
    task->is_runnable = view.is_runnable;
    has_runnable_ = has_runnable_ || view.is_runnable;
    wake_at_ = std::min(wake_at_, task->deadline());
    return false;
  });
}

StepPlan EngineLoop::plan() const {
  const Clock::time_point now = Clock::now();
  std::vector<RequestView> views;
  views.reserve(tasks_.size());
  for (const std::unique_ptr<Task>& task : tasks_) {
    RequestView view;
    view.n_cached = task->kv().size();
    view.n_left = task->n_left();
    view.is_runnable = task->is_runnable;
    view.last_step = task->last_step;
    view.waiting_seconds = std::chrono::duration<double>(now - task->served_at).count();
    views.push_back(view);
  }
  return plan_step(views, cost_.cost());
}

void EngineLoop::run_step(const StepPlan& plan) {
  const std::vector<Slice> slices = reserve(plan);
  if (slices.empty() || !compute(slices)) return;
  for (const Slice& slice : slices) {
    slice.task->kv().append(slice.task->context().subspan(static_cast<size_t>(slice.first_position),
                                                          static_cast<size_t>(slice.n_tokens)));
    slice.task->served_at = Clock::now();
  }
  publish_rows(slices);
  for (const Slice& slice : slices) {
    if (auto* score = dynamic_cast<ScoreTask*>(slice.task)) write_scores(slice, *score);
  }
}

// Pages for every slice; a request that gets none fails alone.
std::vector<EngineLoop::Slice> EngineLoop::reserve(const StepPlan& plan) {
  ++n_steps_;
  std::vector<Slice> slices;
  slices.reserve(plan.slices.size());
  int32_t n_rows = 0;
  for (const PlannedSlice& planned : plan.slices) {
    Task& task = *tasks_[planned.request];
    try {
      task.kv().reserve(planned.n_tokens);
    } catch (...) {
      fail(task, current_error());
      continue;
    }
    if (task.last_step == 0) task.note_first_step();
    task.last_step = n_steps_;
    slices.push_back({&task, planned.n_tokens, task.kv().size(), n_rows});
    n_rows += static_cast<int32_t>(planned.n_tokens);
  }
  return slices;
}

// One pass over the weights. False when it failed, and with it every request of the step; their KV
// still ends where it did.
bool EngineLoop::compute(const std::vector<Slice>& slices) {
  const Clock::time_point begin = Clock::now();
  int64_t n_tokens = 0;
  double sum_of_contexts = 0;
  try {
    std::vector<SequenceSlice> batch;
    batch.reserve(slices.size());
    for (const Slice& slice : slices) {
      batch.push_back({slice.task->context().subspan(static_cast<size_t>(slice.first_position),
                                                     static_cast<size_t>(slice.n_tokens)),
                       slice.first_position, slice.task->kv().pages(), {}});
      n_tokens += slice.n_tokens;
      const double n = static_cast<double>(slice.n_tokens);
      sum_of_contexts += n * (static_cast<double>(slice.first_position) + n / 2);
    }
    model_->forward(batch, *workspace_, *gang_, nullptr);
  } catch (...) {
    const std::shared_ptr<const Error> error = current_error();
    for (const Slice& slice : slices) fail(*slice.task, error);
    return false;
  }
  cost_.observe(n_tokens, sum_of_contexts,
                std::chrono::duration<double>(Clock::now() - begin).count());
  return true;
}

void EngineLoop::publish_rows(const std::vector<Slice>& slices) {
  std::vector<Row> rows;
  for (const Slice& slice : slices) {
    auto* generation = dynamic_cast<GenerationTask*>(slice.task);
    if (generation == nullptr || generation->n_left() > 0 || generation->is_ended()) continue;
    rows.push_back(
        {generation, slice.first_row + static_cast<int32_t>(slice.n_tokens) - 1, {}, {}});
  }
  const size_t row_bytes = static_cast<size_t>(model_->n_vocab()) * sizeof(float);
  const size_t slab = std::max<size_t>(1, kMaxLogitsBytes / row_bytes);
  for (size_t begin = 0; begin < rows.size(); begin += slab) {
    publish_slab(std::span(rows).subspan(begin, std::min(slab, rows.size() - begin)));
  }
}

void EngineLoop::publish_slab(std::span<Row> rows) {
  const size_t n_vocab = static_cast<size_t>(model_->n_vocab());
  try {
    if (logits_.size() < rows.size() * n_vocab) logits_.resize(rows.size() * n_vocab);
    std::vector<int32_t> indices;
    for (const Row& row : rows) indices.push_back(row.row);
    model_->logits(indices, *workspace_, *gang_, logits_.data());
  } catch (...) {
    const std::shared_ptr<const Error> error = current_error();
    for (const Row& row : rows) fail(*row.task, error);
    return;
  }
  gang_->for_each(rows.size(), [&](size_t i, int worker) {
    choose(rows[i], std::span(logits_).subspan(i * n_vocab, n_vocab),
           scratch_[static_cast<size_t>(worker)]);
  });
  for (Row& row : rows) {
    if (row.error) {
      fail(*row.task, row.error);
      continue;
    }
    try {
      remember(row.task->publish(std::move(row.choice)));
    } catch (...) {
      fail(*row.task, current_error());
    }
  }
}

// On any worker. A row that cannot be sampled ends its own request and nobody else's.
void EngineLoop::choose(Row& row, std::span<float> logits, SamplerScratch& scratch) noexcept {
  try {
    row.choice = row.task->choose(logits, scratch);
  } catch (...) {
    row.error = current_error();
  }
}

// A few rows at a time: with a large vocabulary the logits of a whole chunk take longer than a
// cancelled caller should wait.
void EngineLoop::write_scores(const Slice& slice, ScoreTask& task) {
  try {
    const std::vector<int32_t> wanted =
        task.wanted_rows(slice.first_position, slice.n_tokens, slice.first_row);
    const size_t n_vocab = static_cast<size_t>(model_->n_vocab());
    size_t done = 0;
    do {
      const auto rows = std::span(wanted).subspan(done, std::min(kScoreRows, wanted.size() - done));
      float* const out = task.next_out(model_->n_vocab());
      if (!rows.empty()) model_->logits(rows, *workspace_, *gang_, out);
      for (size_t i = 0; i < rows.size(); ++i) {
        if (row_is_finite(std::span<const float>(out + i * n_vocab, n_vocab))) continue;
        throw Error(ErrorKind::kInference, "NON_FINITE_LOGITS",
                    "the model gave logits that are not finite numbers in the row after position " +
                        std::to_string(slice.first_position + rows[i] - slice.first_row));
      }
      task.note_written(rows.size());
      done += rows.size();
    } while (done < wanted.size() && task.poll().is_alive);
  } catch (...) {
    fail(task, current_error());
  }
}

void EngineLoop::fail(Task& task, std::shared_ptr<const Error> error) {
  remember(task.fail(std::move(error)));
}

void EngineLoop::fail_everything(const Mail& mail, const std::shared_ptr<const Error>& error) {
  for (const std::unique_ptr<Task>& task : tasks_) {
    if (task) fail(*task, error);  // refresh() may have been cut short amid its moves
  }
  for (const std::shared_ptr<TokenChannel>& channel : mail.requests) remember(channel->fail(error));
  for (const std::shared_ptr<ScoreJob>& job : mail.scores) job->finish(error);
  tasks_.clear();
  if (!keeps_kv_) sequences_.clear();
  has_runnable_ = false;
  wake_at_ = Clock::time_point::max();
  mailbox_->report(0, pool_.n_in_use());
  flush_wakers();
}

void EngineLoop::remember(const std::shared_ptr<Waker>& waker) noexcept {
  if (!waker) return;
  if (std::find(dirty_wakers_.begin(), dirty_wakers_.end(), waker) != dirty_wakers_.end()) return;
  try {
    dirty_wakers_.push_back(waker);
  } catch (...) {
    waker->flush();  // a write more, but nobody is left asleep
  }
}

void EngineLoop::flush_wakers() {
  for (const std::shared_ptr<Waker>& waker : dirty_wakers_) waker->flush();
  dirty_wakers_.clear();
}

std::shared_ptr<const Error> EngineLoop::current_error() const noexcept {
  try {
    try {
      throw;
    } catch (const Error& error) {
      return std::make_shared<const Error>(error);
    } catch (const std::bad_alloc&) {
      return out_of_memory_;
    } catch (const std::exception& error) {
      return std::make_shared<const Error>(ErrorKind::kInference, error.what());
    }
  } catch (...) {
    return out_of_memory_;
  }
}

}  // namespace smallmind
