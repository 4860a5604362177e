#include "engine/mailbox.h"

#include <algorithm>
#include <utility>

namespace smallmind {

Mailbox::Mailbox(int64_t max_queue_depth, int64_t max_running)
    : max_queue_depth_(max_queue_depth), max_running_(max_running) {}

// Places that are free count as well as the queue, unless the loop has left them free on purpose:
// those that wait there wait for memory.
Mailbox::Outcome Mailbox::submit(std::shared_ptr<Task> task) {
  {
    MutexLock lock(mutex_);
    if (mail_.is_closing) return Outcome::kClosed;
    if (max_queue_depth_ > 0) {
      const EngineStatus& status = figures_.status;
      const int64_t n_free =
          status.n_queued > 0 ? 0 : std::max<int64_t>(0, max_running_ - status.n_running);
      const int64_t n_waiting = status.n_queued + static_cast<int64_t>(mail_.tasks.size());
      if (n_waiting >= max_queue_depth_ + n_free) return Outcome::kFull;
    }
    mail_.tasks.push_back(std::move(task));
  }
  news_.notify_one();
  return Outcome::kTaken;
}

void Mailbox::release(std::shared_ptr<KvHold> hold) {
  {
    MutexLock lock(mutex_);
    if (mail_.is_closing) return;
    mail_.released.push_back(std::move(hold));
  }
  news_.notify_one();
}

void Mailbox::copy(std::shared_ptr<KvHold> from, std::shared_ptr<KvHold> to) {
  {
    MutexLock lock(mutex_);
    if (mail_.is_closing) return;
    mail_.copies.push_back({std::move(from), std::move(to)});
  }
  news_.notify_one();
}

void Mailbox::poke() {
  {
    MutexLock lock(mutex_);
    is_poked_ = true;
  }
  news_.notify_one();
}

void Mailbox::close() {
  {
    MutexLock lock(mutex_);
    mail_.is_closing = true;
  }
  news_.notify_one();
}

bool Mailbox::is_closed() const {
  MutexLock lock(mutex_);
  return mail_.is_closing;
}

bool Mailbox::has_mail() const {
  return is_poked_ || mail_.is_closing || !mail_.tasks.empty() || !mail_.copies.empty() ||
         !mail_.released.empty();
}

void Mailbox::take(Mail& mail, bool wait, Clock::time_point until) {
  // What these own may be the last of its kind: it goes before the lock is taken.
  mail.tasks.clear();
  mail.copies.clear();
  mail.released.clear();
  MutexLock lock(mutex_);
  while (wait && !has_mail()) {
    if (!news_.wait_until(mutex_, until)) break;
  }
  is_poked_ = false;
  mail.is_closing = mail_.is_closing;
  mail.tasks.swap(mail_.tasks);
  mail.copies.swap(mail_.copies);
  mail.released.swap(mail_.released);
  // In between, what was in the mail counts as queued: a watcher always sees it somewhere.
  figures_.status.n_queued += static_cast<int64_t>(mail.tasks.size());
}

void Mailbox::report(const LoopFigures& figures) {
  MutexLock lock(mutex_);
  figures_ = figures;
}

LoopFigures Mailbox::figures() const {
  MutexLock lock(mutex_);
  LoopFigures figures = figures_;
  figures.status.n_queued += static_cast<int64_t>(mail_.tasks.size());
  return figures;
}

}  // namespace smallmind
