#include "engine/engine_loop.h"

#include <algorithm>
#include <new>
#include <utility>

#include "serving/invariants.h"

namespace smallmind {
namespace {

constexpr size_t kMaxLogitsBytes = 32 << 20;
constexpr size_t kScoreRows = 16;
constexpr bool kChecksInvariants = SMALLMIND_CHECKS_INVARIANTS;

size_t rows_of_a_slab(int64_t n_vocab) {
  const size_t fitting = kMaxLogitsBytes / (static_cast<size_t>(n_vocab) * sizeof(float));
  return std::clamp<size_t>(fitting, 1, kMaxBatchSequences);
}

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

EngineLoop::EngineLoop(std::shared_ptr<const Model> model, std::unique_ptr<Gang> gang,
                       std::shared_ptr<Mailbox> mailbox, const KvGeometry& geometry,
                       uint64_t kv_limit, uint64_t free_cache_bytes,
                       const std::shared_ptr<MemoryLedger>& ledger)
    : model_(std::move(model)),
      gang_(std::move(gang)),
      mailbox_(std::move(mailbox)),
      out_of_memory_(std::make_shared<const Error>(
          ErrorKind::kMemoryBudget, "the system refused memory that this step needed")),
      closed_(std::make_shared<const Error>(ErrorKind::kEngineClosed, "the engine was closed")),
      workspace_(model_->make_workspace()),
      slab_rows_(rows_of_a_slab(model_->n_vocab())),
      pool_(geometry, kv_limit, ledger),
      cache_(pool_, free_cache_bytes),
      ranks_(kMaxBatchSequences * kMaxRanks),
      logits_(slab_rows_ * static_cast<size_t>(model_->n_vocab())),
      choice_charge_(ledger, MemoryCategory::kWorkspace,
                     logits_.bytes() + ranks_.size() * sizeof(TokenLogit)) {
  for (int worker = 0; worker < gang_->n_threads(); ++worker) {
    scratch_.push_back({Candidates(static_cast<size_t>(model_->n_vocab()))});
  }
  constexpr size_t kRunning = 2 * kMaxBatchSequences;  // with a place for every key that waits
  running_.reserve(kRunning);
  waiting_.reserve(kRunning);
  views_.reserve(kRunning);
  waiting_views_.reserve(kRunning);
  plan_.reserve(kRunning);
  dirty_wakers_.reserve(kRunning);
  slices_.reserve(kMaxBatchSequences);
  batch_.reserve(kMaxBatchSequences);
  rows_.resize(kMaxBatchSequences);
  row_indices_.reserve(kMaxBatchSequences);
  ranked_rows_.reserve(kMaxBatchSequences);
}

void EngineLoop::run() {
  for (;;) {
    mailbox_->take(mail_, !has_runnable_, wake_at_);
    if (mail_.is_closing) {
      fail_everything(closed_);
      figures_.n_kv_pages = figures_.n_cached_pages = 0;  // they go with the loop
      figures_.kv_bytes = 0;
      mailbox_->report({.status = figures_});
      return;
    }
    try {
      turn();
    } catch (...) {
      // Only want of memory gets here, outside of any one request's work.
      fail_everything(current_error());
    }
  }
}

// --- Plan. ---

void EngineLoop::turn() {
  refresh();  // first: a session's next request must not meet the cancelled one before it
  collect_mail();
  admit();
  if (has_runnable_) {
    plan();
    run_step();
    refresh();
    // What has ended made room, and nothing else may wake the loop.
    if (!has_runnable_) admit();
  }
  if (kChecksInvariants) check_invariants();
  report();
  flush_wakers();
}

void EngineLoop::check_invariants() const {
  std::vector<const KvCache*> started;
  for (const std::shared_ptr<Task>& task : running_) started.push_back(&task->kv());
  const std::string violation = find_violation(cache_, started);
  if (violation.empty()) return;
  throw Error(ErrorKind::kInference, "INVARIANT_VIOLATED", violation);
}

void EngineLoop::collect_mail() {
  for (const Mail::Copy& copy : mail_.copies) {
    try {
      cache_.copy(*copy.from, copy.to);
    } catch (...) {
      // The fork computes what it could have shared.
    }
  }
  for (const std::shared_ptr<KvHold>& hold : mail_.released) cache_.release(*hold);
  for (std::shared_ptr<Task>& task : mail_.tasks) {
    task->arrival = ++n_arrivals_;
    const std::shared_ptr<KeyAccount>& account = task->account;
    keys_.enter(account);
    try {
      waiting_.push_back(std::move(task));
    } catch (...) {
      keys_.leave(account);
      throw;
    }
  }
  mail_.tasks.clear();
}

// Drops the tasks that have ended and sees whether and how long to wait for the next turn.
void EngineLoop::refresh() {
  has_runnable_ = false;
  wake_at_ = Clock::time_point::max();
  for (const auto* tasks : {&running_, &waiting_}) {
    for (const std::shared_ptr<Task>& task : *tasks) look_at(*task);
  }
  const auto is_gone = [this](const std::shared_ptr<Task>& task) {
    if (!task->is_alive) retire(*task);
    return !task->is_alive;
  };
  std::erase_if(running_, is_gone);
  std::erase_if(waiting_, is_gone);
  for (const std::shared_ptr<Task>& task : running_) {
    has_runnable_ = has_runnable_ || task->is_runnable;
  }
}

void EngineLoop::look_at(Task& task) {
  const TokenChannel::LoopView view = task.poll();
  remember(view.waker);
  task.is_alive = view.is_alive;
  task.is_runnable = view.is_runnable;
  task.kv().is_paused = !view.is_runnable;
  wake_at_ = std::min(wake_at_, task.deadline());
}

void EngineLoop::retire(Task& task) noexcept {
  if (task.kv().is_started()) --task.account->n_running;
  task.kv().stop(true);
  keys_.leave(task.account);
}

// Lets requests run while there are places and memory for them.
void EngineLoop::admit() {
  while (!waiting_.empty()) {
    keys_.view(key_views_);
    waiting_views_.clear();
    const auto n_running = static_cast<int64_t>(running_.size());
    for (const std::shared_ptr<Task>& task : waiting_) {
      const KeyAccount& account = *task->account;
      const bool has_place = may_run(n_running, account.n_running, keys_.size());
      waiting_views_.push_back({task->arrival, account.index, task->is_runnable && has_place});
    }
    const int64_t next = next_admission(waiting_views_, key_views_);
    if (next < 0) return;
    if (try_to_run(waiting_[static_cast<size_t>(next)])) {
      waiting_.erase(waiting_.begin() + next);
    } else if (!set_aside_one()) {
      return;
    }
  }
}

// A request that waits for its reader keeps no memory from those that could run: it goes back to
// the queue, its KV becomes cache, and it is admitted anew when the reader has caught up.
bool EngineLoop::set_aside_one() {
  const auto paused =
      std::find_if(running_.begin(), running_.end(),
                   [](const std::shared_ptr<Task>& task) { return !task->is_runnable; });
  if (paused == running_.end()) return false;
  Task& task = **paused;
  waiting_.push_back(*paused);
  running_.erase(paused);
  task.kv().stop(true);
  task.n_counted_reused = 0;
  --task.account->n_running;
  return true;
}

// False when it has to wait for memory; nobody passes it meanwhile.
bool EngineLoop::try_to_run(const std::shared_ptr<Task>& task) {
  look_at(*task);
  if (!task->is_alive) {
    retire(*task);
    return true;
  }
  try {
    if (!task->kv().start(cache_, task->context())) return false;
    running_.push_back(task);
    ++task->account->n_running;
    has_runnable_ = has_runnable_ || task->is_runnable;
  } catch (...) {
    fail(*task, current_error());
    task->kv().stop(false);
    keys_.leave(task->account);
  }
  return true;
}

// Lets every sequence take what others have computed since the last step, and claim what it will
// compute itself.
void EngineLoop::advance_caches() {
  for (size_t i = 0; i < running_.size(); ++i) running_[i]->kv().index = static_cast<int32_t>(i);
  for (size_t i = 0; i < running_.size(); ++i) {
    Task& task = *running_[i];
    RequestView& view = views_[i];
    if (!task.is_runnable) continue;
    try {
      const KvCache* const owner = task.kv().advance(task.context());
      view.blocked_by = owner == nullptr ? -1 : owner->index;
    } catch (...) {
      fail(task, current_error());
      task.is_runnable = false;
    }
    const int64_t n_reused = std::min(task.kv().n_reused(), task.n_prompt());
    figures_.n_cached_tokens += n_reused - std::exchange(task.n_counted_reused, n_reused);
  }
}

void EngineLoop::plan() {
  views_.assign(running_.size(), {});
  advance_caches();
  for (size_t i = 0; i < running_.size(); ++i) {
    const Task& task = *running_[i];
    RequestView& view = views_[i];
    view.n_cached = task.kv().size();
    view.n_left = task.n_left();
    view.is_runnable = task.is_runnable;
    view.arrival = task.arrival;
    view.last_step = task.last_step;
    view.overtaken_seconds = task.overtaken_seconds;
    view.key = task.account->index;
  }
  keys_.view(key_views_);
  plan_step(views_, key_views_, cost_.cost(), plan_);
  charge_plan();
}

// Notes who used the time, and who was overtaken meanwhile.
void EngineLoop::charge_plan() {
  for (const PlannedSlice& slice : plan_.slices) {
    const Task& served = *running_[slice.request];
    served.account->seconds_used += slice.seconds;
    if (views_[slice.request].n_left == 1) continue;
    for (size_t i = 0; i < running_.size(); ++i) {
      const bool has_waited = views_[i].is_runnable && views_[i].n_left > 1;
      const bool is_peer = running_[i]->account == served.account;
      if (has_waited && is_peer && running_[i]->arrival < served.arrival) {
        running_[i]->overtaken_seconds += slice.seconds;
      }
    }
  }
}

// --- Run. ---

void EngineLoop::run_step() {
  reserve();
  if (slices_.empty() || !compute()) return;
  commit();
  publish_rows();
  for (const Slice& slice : slices_) {
    if (auto* score = dynamic_cast<ScoreTask*>(slice.task)) write_scores(slice, *score);
  }
}

// Pages for every slice; a request that gets none fails alone.
void EngineLoop::reserve() {
  ++n_steps_;
  slices_.clear();
  int32_t n_rows = 0;
  for (const PlannedSlice& planned : plan_.slices) {
    Task& task = *running_[planned.request];
    try {
      task.kv().prepare(task.context(), planned.n_tokens);
    } catch (...) {
      fail(task, current_error());
      continue;
    }
    if (task.last_step == 0) task.note_first_step();
    task.last_step = n_steps_;
    const int64_t n_outputs = task.n_outputs(planned.n_tokens);
    slices_.push_back({&task, planned.n_tokens, task.kv().size(), n_outputs, n_rows});
    n_rows += static_cast<int32_t>(n_outputs);
  }
}

bool EngineLoop::Watch::is_wanted() noexcept {
  return std::any_of(loop_.slices_.begin(), loop_.slices_.end(),
                     [](const Slice& slice) { return !slice.task->is_ended(); });
}

// One pass over the weights. False when nobody waits for it any more, or when it failed, and with
// it every request of the step; their KV still ends where it did.
bool EngineLoop::compute() {
  const Clock::time_point begin = Clock::now();
  int64_t n_tokens = 0;
  double sum_of_contexts = 0;
  batch_.clear();
  for (const Slice& slice : slices_) {
    const KvCache& kv = slice.task->kv();
    batch_.push_back({slice.task->context().subspan(static_cast<size_t>(slice.first_position),
                                                    static_cast<size_t>(slice.n_tokens)),
                      slice.first_position, kv.pages(PageGroup::kFull),
                      kv.pages(PageGroup::kWindow), static_cast<size_t>(slice.n_outputs)});
    n_tokens += slice.n_tokens;
    const double n = static_cast<double>(slice.n_tokens);
    sum_of_contexts += n * (static_cast<double>(slice.first_position) + n / 2);
  }
  try {
    if (!model_->forward(batch_, *workspace_, *gang_, &watch_)) return false;
  } catch (...) {
    const std::shared_ptr<const Error> error = current_error();
    for (const Slice& slice : slices_) fail(*slice.task, error);
    return false;
  }
  cost_.observe(n_tokens, sum_of_contexts, seconds_since(begin));
  return true;
}

void EngineLoop::commit() {
  for (const Slice& slice : slices_) {
    Task& task = *slice.task;
    task.kv().append(task.context(), slice.n_tokens);
    figures_.n_computed_tokens +=
        std::clamp<int64_t>(task.n_prompt() - slice.first_position, 0, slice.n_tokens);
  }
}

// --- Publish. ---

void EngineLoop::publish_rows() {
  size_t n_rows = 0;
  for (const Slice& slice : slices_) {
    auto* const generation = dynamic_cast<GenerationTask*>(slice.task);
    if (generation == nullptr || slice.n_outputs == 0 || generation->is_ended()) continue;
    Row& row = rows_[n_rows++];
    row.task = generation;
    row.row = slice.first_row;
    row.is_chosen = false;
    row.error = nullptr;
  }
  figures_.n_generated_tokens += static_cast<int64_t>(n_rows);
  const auto rows = std::span(rows_).first(n_rows);
  const Clock::time_point begin = Clock::now();
  try {
    choose_from_ranks(rows);
    choose_from_logits(rows);
    if (n_rows > 0) cost_.observe_choosing(seconds_since(begin));
  } catch (...) {
    const std::shared_ptr<const Error> error = current_error();
    for (Row& row : rows) {
      if (!row.is_chosen) row.error = error;
    }
  }
  for (Row& row : rows) {
    if (row.error) {
      fail(*row.task, row.error);
      continue;
    }
    try {
      remember(row.task->publish(row.choice));
    } catch (...) {
      fail(*row.task, current_error());
    }
  }
}

// Most choices are decided by a few tokens, which are found without the logits of all others.
void EngineLoop::choose_from_ranks(std::span<Row> rows) {
  const auto wants_few = [](const Row& row) {
    const size_t n = row.task->n_deciding();
    return n > 0 && n <= kMaxRanks;
  };
  const auto end = std::partition(rows.begin(), rows.end(), wants_few);
  ranked_rows_.clear();
  for (auto row = rows.begin(); row != end; ++row) {
    TokenLogit* const ranks = ranks_.data() + ranked_rows_.size() * kMaxRanks;
    ranked_rows_.push_back({row->row, row->task->n_deciding(), ranks});
  }
  model_->first_ranks(ranked_rows_, *workspace_, *gang_);
  gang_->for_each(ranked_rows_.size(), [&](size_t i, int worker) {
    const RankedRow& found = ranked_rows_[i];
    if (found.n_found == 0) return;
    choose(rows[i], std::span<const TokenLogit>(found.ranks, found.n_found), worker);
  });
}

// What is not yet chosen, a slab of rows at a time.
void EngineLoop::choose_from_logits(std::span<Row> rows) {
  const size_t n_vocab = static_cast<size_t>(model_->n_vocab());
  auto next =
      std::partition(rows.begin(), rows.end(), [](const Row& row) { return row.is_chosen; });
  while (next != rows.end()) {
    const auto n_left = static_cast<size_t>(rows.end() - next);
    const std::span<Row> slab(next, std::min(slab_rows_, n_left));
    row_indices_.clear();
    for (const Row& row : slab) row_indices_.push_back(row.row);
    model_->logits(row_indices_, *workspace_, *gang_, logits_.data());
    gang_->for_each(slab.size(), [&](size_t i, int worker) {
      choose(slab[i], std::span(logits_.data() + i * n_vocab, n_vocab), worker);
    });
    next += static_cast<std::ptrdiff_t>(slab.size());
  }
}

// On any worker. A row that cannot be sampled ends its own request and nobody else's.
template <class Values>
void EngineLoop::choose(Row& row, std::span<Values> values, int worker) noexcept {
  row.is_chosen = true;
  try {
    row.task->choose(values, scratch_[static_cast<size_t>(worker)], row.choice);
  } catch (...) {
    row.error = current_error();
  }
}

// A few rows at a time: with a large vocabulary the logits of a whole chunk take longer than a
// cancelled caller should wait.
void EngineLoop::write_scores(const Slice& slice, ScoreTask& task) {
  try {
    const std::vector<int32_t> wanted =
        task.wanted_rows(slice.first_output(), slice.n_outputs, slice.first_row);
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
                        std::to_string(slice.first_output() + rows[i] - slice.first_row));
      }
      task.note_written(rows.size());
      done += rows.size();
    } while (done < wanted.size() && task.poll().is_alive);
  } catch (...) {
    fail(task, current_error());
  }
}

void EngineLoop::report() {
  figures_.n_running = static_cast<int64_t>(running_.size());
  figures_.n_queued = static_cast<int64_t>(waiting_.size());
  figures_.n_kv_pages = cache_.n_held_pages();
  figures_.n_cached_pages = cache_.n_cached_pages();
  figures_.kv_bytes = cache_.bytes();
  figures_.n_evicted_pages = cache_.n_evicted_pages();
  figures_.n_steps = static_cast<int64_t>(n_steps_);
  mailbox_->report({figures_, cache_.held_bytes(), cache_.cached_bytes()});
}

void EngineLoop::fail(Task& task, std::shared_ptr<const Error> error) {
  remember(task.fail(std::move(error)));
}

void EngineLoop::fail_everything(const std::shared_ptr<const Error>& error) {
  for (auto* tasks : {&running_, &waiting_, &mail_.tasks}) {
    for (const std::shared_ptr<Task>& task : *tasks) {
      if (task) fail(*task, error);  // the mail may have been collected in part
    }
  }
  for (auto* tasks : {&running_, &waiting_}) {
    for (const std::shared_ptr<Task>& task : *tasks) retire(*task);
    tasks->clear();
  }
  mail_.tasks.clear();
  has_runnable_ = false;
  wake_at_ = Clock::time_point::max();
  report();
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
