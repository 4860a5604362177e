// Who has used how much of the engine's time, by fairness key.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "serving/step_plan.h"

namespace smallmind {

// One key's account; its fields are the loop thread's.
struct KeyAccount {
  double seconds_used = 0;
  int64_t n_tasks = 0;    // waiting or running
  int64_t n_running = 0;  // of them
  int32_t index = -1;     // among the active keys
};

// Thread-safe: sessions ask for their key's account when they are made.
class KeyAccounts {
 public:
  std::shared_ptr<KeyAccount> find_or_make(const std::string& key);

 private:
  Mutex mutex_;
  std::unordered_map<std::string, std::weak_ptr<KeyAccount>> accounts_ GUARDED_BY(mutex_);
  size_t prune_at_ GUARDED_BY(mutex_) = 64;
};

// The keys that have tasks. The loop thread's.
class ActiveKeys {
 public:
  // A key that comes back starts level with the one that has used the least: time not used before
  // is not owed.
  void enter(const std::shared_ptr<KeyAccount>& account);
  void leave(const std::shared_ptr<KeyAccount>& account) noexcept;
  int64_t size() const noexcept { return static_cast<int64_t>(active_.size()); }
  // In the order of KeyAccount::index.
  void view(std::vector<KeyView>& views) const;

 private:
  std::vector<std::shared_ptr<KeyAccount>> active_;
};

}  // namespace smallmind
