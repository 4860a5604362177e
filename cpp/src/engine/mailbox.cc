#include "engine/mailbox.h"

#include <utility>

namespace smallmind {

bool Mailbox::submit(std::shared_ptr<TokenChannel> request) {
  {
    MutexLock lock(mutex_);
    if (mail_.is_closing) return false;
    mail_.requests.push_back(std::move(request));
  }
  news_.notify_one();
  return true;
}

bool Mailbox::submit(std::shared_ptr<ScoreJob> score) {
  {
    MutexLock lock(mutex_);
    if (mail_.is_closing) return false;
    mail_.scores.push_back(std::move(score));
  }
  news_.notify_one();
  return true;
}

void Mailbox::release_sequence(uint64_t key) {
  {
    MutexLock lock(mutex_);
    if (mail_.is_closing) return;  // the loop frees all sequences as it ends
    mail_.released_sequences.push_back(key);
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

Mail Mailbox::take(bool wait, Clock::time_point until) {
  MutexLock lock(mutex_);
  while (wait && !is_poked_ && !mail_.is_closing && mail_.requests.empty() &&
         mail_.scores.empty() && mail_.released_sequences.empty()) {
    if (!news_.wait_until(mutex_, until)) break;
  }
  is_poked_ = false;
  Mail mail;
  mail.is_closing = mail_.is_closing;
  mail.requests.swap(mail_.requests);
  mail.scores.swap(mail_.scores);
  mail.released_sequences.swap(mail_.released_sequences);
  // In between, what was queued counts as running: a watcher never sees it as neither.
  status_.n_running += static_cast<int64_t>(mail.requests.size() + mail.scores.size());
  return mail;
}

void Mailbox::report(int64_t n_running, int64_t n_kv_pages) {
  MutexLock lock(mutex_);
  status_.n_running = n_running;
  status_.n_kv_pages = n_kv_pages;
}

EngineStatus Mailbox::status() const {
  MutexLock lock(mutex_);
  EngineStatus status = status_;
  status.n_queued = static_cast<int64_t>(mail_.requests.size() + mail_.scores.size());
  return status;
}

}  // namespace smallmind
