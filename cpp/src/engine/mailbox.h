// What other threads leave for the engine's loop, and what they may read of it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "smallmind/cancellation.h"
#include "smallmind/engine.h"

namespace smallmind {

struct KvHold;
class Task;

// What came since the last time. The loop passes the same one again and again: its vectors keep
// their memory.
struct Mail {
  struct Copy {
    std::shared_ptr<KvHold> from;
    std::shared_ptr<KvHold> to;
  };
  std::vector<std::shared_ptr<Task>> tasks;
  std::vector<Copy> copies;                       // of what sessions keep: forks
  std::vector<std::shared_ptr<KvHold>> released;  // no longer wanted
  bool is_closing = false;
};

// What the loop says of itself after a step.
struct LoopFigures {
  EngineStatus status;  // n_sessions stays 0
  uint64_t kv_held_bytes = 0;
  uint64_t kv_cached_bytes = 0;
};

// Thread-safe. The loop is the only taker. Its lock is a leaf: nothing is called while it is held.
class Mailbox {
 public:
  enum class Outcome : uint8_t { kTaken, kClosed, kFull };

  // max_queue_depth: 0 is no limit. max_running: requests that the loop runs side by side.
  explicit Mailbox(int64_t max_queue_depth = 0, int64_t max_running = 0);

  // kFull: with this one, more than max_queue_depth requests would wait for a place.
  Outcome submit(std::shared_ptr<Task> task);
  // These do nothing after close(): the loop lets go of everything as it ends.
  void release(std::shared_ptr<KvHold> hold);
  void copy(std::shared_ptr<KvHold> from, std::shared_ptr<KvHold> to);
  // Something that the loop looks at has changed: a cancel, a deadline, a reader that caught up.
  void poke();
  void close();
  bool is_closed() const;

  // Everything left since the last call; `mail` is emptied first. With `wait`, returns when there
  // is something, at a poke, or at `until`.
  void take(Mail& mail, bool wait, Clock::time_point until);
  // As of the loop's last step, and what is in the mail counts as queued.
  void report(const LoopFigures& figures);
  LoopFigures figures() const;

 private:
  bool has_mail() const REQUIRES(mutex_);

  const int64_t max_queue_depth_;
  const int64_t max_running_;
  mutable Mutex mutex_;
  CondVar news_;
  Mail mail_ GUARDED_BY(mutex_);
  bool is_poked_ GUARDED_BY(mutex_) = false;
  LoopFigures figures_ GUARDED_BY(mutex_);
};

}  // namespace smallmind
