#include "engine/fair_share.h"

#include <algorithm>

namespace smallmind {

std::shared_ptr<KeyAccount> KeyAccounts::find_or_make(const std::string& key) {
  MutexLock lock(mutex_);
  if (accounts_.size() >= prune_at_) {
    std::erase_if(accounts_, [](const auto& entry) { return entry.second.expired(); });
    prune_at_ = std::max<size_t>(64, 2 * accounts_.size());
  }
  std::weak_ptr<KeyAccount>& known = accounts_[key];
  std::shared_ptr<KeyAccount> account = known.lock();
  if (!account) known = account = std::make_shared<KeyAccount>();
  return account;
}

void ActiveKeys::enter(const std::shared_ptr<KeyAccount>& account) {
  if (account->n_tasks == 0) {
    if (!active_.empty()) {
      const auto least = std::min_element(
          active_.begin(), active_.end(),
          [](const auto& a, const auto& b) { return a->seconds_used < b->seconds_used; });
      account->seconds_used = std::max(account->seconds_used, (*least)->seconds_used);
    }
    active_.push_back(account);
    account->index = static_cast<int32_t>(active_.size()) - 1;
  }
  ++account->n_tasks;
}

void ActiveKeys::leave(const std::shared_ptr<KeyAccount>& account) noexcept {
  if (--account->n_tasks > 0) return;
  active_.back()->index = account->index;
  std::swap(active_[static_cast<size_t>(account->index)], active_.back());
  active_.pop_back();
  account->index = -1;
}

void ActiveKeys::view(std::vector<KeyView>& views) const {
  views.clear();
  for (const auto& account : active_) views.push_back({account->seconds_used});
}

}  // namespace smallmind
