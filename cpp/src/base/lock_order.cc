#include "base/lock_order.h"

#include <array>
#include <atomic>
#include <string>

#include "smallmind/error.h"

namespace smallmind {
namespace {

// Only builds with the check come here: the one thread-local state of the core.
struct Held {
  std::array<LockRank, 8> ranks{};
  size_t n = 0;
};

Held& held() {
  thread_local Held locks;
  return locks;
}

std::atomic<size_t> n_failed{0};

[[noreturn]] void fail(const std::string& what) {
  ++n_failed;
  throw Error(ErrorKind::kInference, "LOCK_ORDER", "locks: " + what);
}

const char* name(LockRank rank) {
  switch (rank) {
    case LockRank::kSession:
      return "a session's lock";
    case LockRank::kListener:
      return "a listener's lock";
    case LockRank::kLeaf:
      break;
  }
  return "a leaf";
}

}  // namespace

void LockOrder::enter(LockRank rank) {
  Held& locks = held();
  if (locks.n > 0 && locks.ranks[locks.n - 1] >= rank) {
    fail(std::string(name(rank)) + " is taken under " + name(locks.ranks[locks.n - 1]));
  }
  locks.ranks[locks.n++] = rank;  // ranks ascend, so there are never more than there are ranks
}

void LockOrder::leave() noexcept { --held().n; }

void LockOrder::check_wait() {
  if (held().n != 1) fail("a thread waits with " + std::to_string(held().n) + " of them");
}

void LockOrder::check_listener_drop() {
  const Held& locks = held();
  if (locks.n == 0 || locks.ranks[locks.n - 1] < LockRank::kLeaf) return;
  fail("a listener is taken back under a leaf");
}

size_t LockOrder::n_held() noexcept { return held().n; }

size_t LockOrder::n_violations() noexcept { return n_failed.load(); }

}  // namespace smallmind
