// What other threads leave for the engine's loop, and what they may read of it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "smallmind/cancellation.h"
#include "smallmind/engine.h"

namespace smallmind {

class TokenChannel;
class ScoreJob;

struct Mail {
  std::vector<std::shared_ptr<TokenChannel>> requests;
  std::vector<std::shared_ptr<ScoreJob>> scores;
  std::vector<uint64_t> released_sequences;  // sessions whose KV is no longer wanted
  bool is_closing = false;
};

// Thread-safe. The loop is the only taker. Its lock is a leaf: nothing is called while it is held.
class Mailbox {
 public:
  // False after close(): the thing was not taken.
  bool submit(std::shared_ptr<TokenChannel> request);
  bool submit(std::shared_ptr<ScoreJob> score);
  void release_sequence(uint64_t key);
  // Something that the loop looks at has changed: a cancel, a deadline, a reader that caught up.
  void poke();
  void close();
  bool is_closed() const;

  // Everything left since the last call. With `wait`, returns when there is something, at a poke,
  // or at `until`.
  Mail take(bool wait, Clock::time_point until);
  // The loop's side of the status, as of its last plan.
  void report(int64_t n_running, int64_t n_kv_pages);
  // n_sessions stays 0 here.
  EngineStatus status() const;

 private:
  mutable Mutex mutex_;
  CondVar news_;
  Mail mail_ GUARDED_BY(mutex_);
  bool is_poked_ GUARDED_BY(mutex_) = false;
  EngineStatus status_ GUARDED_BY(mutex_);
};

}  // namespace smallmind
