#include "engine/score_job.h"

#include <utility>

namespace smallmind {
namespace {

constexpr std::chrono::milliseconds kTickInterval{20};

}  // namespace

bool ScoreJob::is_cancelled() const {
  MutexLock lock(mutex_);
  return is_cancelled_;
}

void ScoreJob::progress(int64_t n_done) {
  MutexLock lock(mutex_);
  n_done_ = n_done;
}

void ScoreJob::finish(std::shared_ptr<const Error> error) {
  MutexLock lock(mutex_);
  if (is_finished_) return;
  is_finished_ = true;
  error_ = std::move(error);
  news_.notify_all();
}

// True when the loop is done. Waits one tick at most.
bool ScoreJob::wait_slice(int64_t& n_done) {
  const Clock::time_point until = Clock::now() + kTickInterval;
  MutexLock lock(mutex_);
  while (!is_finished_ && Clock::now() < until) news_.wait_until(mutex_, until);
  n_done = n_done_;
  return is_finished_;
}

void ScoreJob::cancel_and_join(Mailbox& mailbox) {
  {
    MutexLock lock(mutex_);
    is_cancelled_ = true;
  }
  mailbox.poke();
  MutexLock lock(mutex_);
  while (!is_finished_) news_.wait(mutex_);
}

void ScoreJob::wait(Mailbox& mailbox, const CallHooks& hooks) {
  int64_t n_done = 0;
  bool is_done = false;
  try {
    while (!is_done) {
      is_done = wait_slice(n_done);
      if (hooks.tick) hooks.tick("score", static_cast<uint64_t>(n_done), ids_.size());
      if (!is_done) hooks.cancel.check();
    }
  } catch (...) {
    cancel_and_join(mailbox);
    throw;
  }
  MutexLock lock(mutex_);
  if (error_) throw Error(*error_);
}

}  // namespace smallmind
