// The process's steady clock and its sleep, in place of the system's: defined in the executable,
// they are found before the libraries' own.
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <ctime>

#include "base/lock_order.h"
#include "simulation/world.h"

namespace smallmind::testing {
namespace {

constexpr int64_t kStart = 1'000'000'000;
std::atomic<int64_t> now_ns{kStart};
std::atomic<World*> the_world{nullptr};

}  // namespace

void advance_clock(Clock::duration by) { now_ns += by.count(); }
void set_world(World* world) {
  now_ns = kStart;
  the_world = world;
}

int64_t simulated_now() { return now_ns.load(); }

// Lets the world go on instead of sleeping. A world that is over leaves the thread to the mutex:
// whoever closes the engine gets it.
void sleep_simulated(pthread_mutex_t* mutex) {
  pthread_mutex_unlock(mutex);
  // Who sleeps holds nothing: what the world does meanwhile is other threads' work.
  if constexpr (kChecksLockOrder) LockOrder::leave();
  World* const world = the_world.load();
  if (world != nullptr && !world->is_over()) {
    world->act_while_asleep();
  } else {
    const timespec moment{0, 20'000};
    nanosleep(&moment, nullptr);
  }
  pthread_mutex_lock(mutex);
  if constexpr (kChecksLockOrder) LockOrder::enter(LockRank::kLeaf);
}

}  // namespace smallmind::testing

std::chrono::steady_clock::time_point std::chrono::steady_clock::now() noexcept {
  return time_point(duration(smallmind::testing::simulated_now()));
}

void std::condition_variable::wait(std::unique_lock<std::mutex>& lock) {
  smallmind::testing::sleep_simulated(lock.mutex()->native_handle());
}

extern "C" int pthread_cond_clockwait(pthread_cond_t*, pthread_mutex_t* mutex, clockid_t,
                                      const timespec* until) {
  smallmind::testing::sleep_simulated(mutex);
  const int64_t until_ns = until->tv_sec * 1'000'000'000 + until->tv_nsec;
  return smallmind::testing::simulated_now() >= until_ns ? ETIMEDOUT : 0;
}
