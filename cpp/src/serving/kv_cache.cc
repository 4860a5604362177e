#include "serving/kv_cache.h"

#include <algorithm>

#include "model/model.h"

namespace smallmind {
namespace {

size_t pages_for(int64_t n_tokens) {
  return static_cast<size_t>((n_tokens + kPageTokens - 1) / kPageTokens);
}

}  // namespace

int64_t KvCache::common_prefix(std::span<const int32_t> context) const noexcept {
  const size_t n = std::min(ids_.size(), context.size());
  size_t same = 0;
  while (same < n && ids_[same] == context[same]) ++same;
  return static_cast<int64_t>(same);
}

void KvCache::truncate(int64_t n) noexcept {
  ids_.resize(static_cast<size_t>(n));
  while (pages_.size() > pages_for(n)) {
    pool_.give_back(pages_.back());
    pages_.pop_back();
  }
}

void KvCache::reserve(int64_t n_more) {
  const int64_t wanted = size() + n_more;
  if (ids_.capacity() < static_cast<size_t>(wanted)) {
    ids_.reserve(std::max(static_cast<size_t>(wanted), 2 * ids_.capacity()));
  }
  pages_.reserve(pages_for(wanted));
  while (pages_.size() < pages_for(wanted)) pages_.push_back(pool_.take());
}

void KvCache::append(std::span<const int32_t> ids) noexcept {
  ids_.insert(ids_.end(), ids.begin(), ids.end());
}

}  // namespace smallmind
