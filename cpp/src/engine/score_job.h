// One score() call between its caller, who waits, and the engine's loop, which computes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "engine/mailbox.h"
#include "smallmind/cancellation.h"
#include "smallmind/error.h"

namespace smallmind {

// Thread-safe. The loop writes to `out` until it calls finish(), and wait() does not return before
// that: the caller's array is never written behind its back.
class ScoreJob {
 public:
  // Checked by the caller: ids in range, positions ascending and inside, out large enough.
  ScoreJob(std::vector<int32_t> ids, std::vector<int64_t> positions, float* out)
      : ids_(std::move(ids)), positions_(std::move(positions)), out_(out) {}

  const std::vector<int32_t>& ids() const noexcept { return ids_; }
  const std::vector<int64_t>& positions() const noexcept { return positions_; }
  float* out() const noexcept { return out_; }

  // --- The loop's side. ---
  bool is_cancelled() const;
  void progress(int64_t n_done);
  // The last word; later ones change nothing. Null when all is written.
  void finish(std::shared_ptr<const Error> error);

  // --- The caller's side. ---
  // Returns when all is written; throws what the loop reports, what hooks.tick throws, or the
  // cancellation, each after the loop has let go of `out`.
  void wait(Mailbox& mailbox, const CallHooks& hooks);

 private:
  bool wait_slice(int64_t& n_done);
  void cancel_and_join(Mailbox& mailbox);

  const std::vector<int32_t> ids_;
  const std::vector<int64_t> positions_;
  float* const out_;

  mutable Mutex mutex_;
  CondVar news_;
  int64_t n_done_ GUARDED_BY(mutex_) = 0;
  bool is_cancelled_ GUARDED_BY(mutex_) = false;
  bool is_finished_ GUARDED_BY(mutex_) = false;
  std::shared_ptr<const Error> error_ GUARDED_BY(mutex_);
};

}  // namespace smallmind
