#include "base/gang.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/processor.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr int kSpinPauses = 200;
constexpr std::chrono::microseconds kIdleBeforeParking{100};
constexpr size_t kMaxItems = 0xFFFF'FFFF;

// The ticket: generation in the high half, items not yet claimed in the low half. Counting down
// lets a claim be one compare-and-swap that needs no other field.
constexpr uint64_t unclaimed(uint64_t ticket) { return ticket & 0xFFFF'FFFF; }
constexpr uint64_t generation(uint64_t ticket) { return ticket >> 32; }

}  // namespace

struct Gang::State {
  // Written by the owner before it publishes a ticket, read by whoever has claimed an item of that
  // ticket: the claim orders the two, and the region cannot end before the claimed item has.
  ItemFn call = nullptr;
  const void* fn = nullptr;
  size_t n_items = 0;
  std::exception_ptr failure;  // set by the winner of has_failed, read after the region

  alignas(64) std::atomic<uint64_t> ticket{0};
  alignas(64) std::atomic<size_t> n_pending{0};  // items not yet done
  std::atomic<bool> has_failed{false};
  alignas(64) std::atomic<uint32_t> n_parked{0};
  std::atomic<uint32_t> wake_epoch{0};
  std::atomic<bool> stopping{false};
  std::atomic<bool> busy{false};
  std::vector<std::thread> helpers;

  void work(int worker);
  void run_item(size_t item, int worker);
  void helper_main(int worker);
  uint64_t wait_for_generation(uint64_t seen);
  void park(uint64_t seen);
  void wake_parked();
  void stop();
};

void Gang::State::run_item(size_t item, int worker) {
  if (has_failed.load(std::memory_order_relaxed)) return;  // the result is lost already
  try {
    call(fn, item, worker);
  } catch (...) {
    if (!has_failed.exchange(true, std::memory_order_acq_rel)) failure = std::current_exception();
  }
}

// Claims and runs items until none is left. All of them belong to one region: the first claimed one
// keeps the region open until n_pending is lowered at the end.
void Gang::State::work(int worker) {
  size_t n_done = 0;
  uint64_t seen = ticket.load(std::memory_order_acquire);
  while (unclaimed(seen) > 0) {
    if (!ticket.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel,
                                      std::memory_order_acquire)) {
      continue;
    }
    run_item(n_items - unclaimed(seen), worker);
    ++n_done;
    seen = ticket.load(std::memory_order_acquire);
  }
  if (n_done > 0) n_pending.fetch_sub(n_done, std::memory_order_acq_rel);
}

// Sleeps until the ticket's generation differs from `seen` or the gang stops. The owner writes the
// ticket and then reads n_parked; we raise n_parked and then read the ticket: one of us sees the
// other (all four are sequentially consistent).
void Gang::State::park(uint64_t seen) {
  n_parked.fetch_add(1);
  const uint32_t epoch = wake_epoch.load();
  if (generation(ticket.load()) == seen && !stopping.load()) wake_epoch.wait(epoch);
  n_parked.fetch_sub(1);
}

void Gang::State::wake_parked() {
  if (n_parked.load() == 0) return;
  wake_epoch.fetch_add(1);
  wake_epoch.notify_all();
}

uint64_t Gang::State::wait_for_generation(uint64_t seen) {
  for (;;) {
    for (int i = 0; i < kSpinPauses; ++i) {
      const uint64_t now = generation(ticket.load(std::memory_order_acquire));
      if (now != seen || stopping.load(std::memory_order_relaxed)) return now;
      spin_pause();
    }
    const auto park_at = SteadyClock::now() + kIdleBeforeParking;
    while (SteadyClock::now() < park_at) {
      std::this_thread::yield();
      const uint64_t now = generation(ticket.load(std::memory_order_acquire));
      if (now != seen || stopping.load(std::memory_order_relaxed)) return now;
    }
    park(seen);
  }
}

void Gang::State::helper_main(int worker) {
  enter_compute_thread("smallmind-gang");
  uint64_t seen = 0;
  while (true) {
    seen = wait_for_generation(seen);
    if (stopping.load()) return;
    work(worker);
  }
}

void Gang::State::stop() {
  stopping.store(true);
  wake_epoch.fetch_add(1);
  wake_epoch.notify_all();
  for (std::thread& helper : helpers) helper.join();
  helpers.clear();
}

Gang::Gang(int n_threads) : state_(std::make_unique<State>()) {
  const SignalsBlocked inherited;
  try {
    state_->helpers.reserve(n_threads > 1 ? static_cast<size_t>(n_threads) - 1 : 0);
    for (int worker = 1; worker < n_threads; ++worker) {
      state_->helpers.emplace_back([state = state_.get(), worker] { state->helper_main(worker); });
    }
  } catch (const std::system_error& error) {
    state_->stop();
    throw Error(ErrorKind::kInference, "THREAD_START_FAILED",
                "n_threads: the system refused to start thread " +
                    std::to_string(state_->helpers.size() + 2) + " of " +
                    std::to_string(n_threads) + " (" + error.code().message() + ")");
  } catch (...) {
    state_->stop();
    throw;
  }
}

Gang::~Gang() { state_->stop(); }

int Gang::n_threads() const noexcept { return static_cast<int>(state_->helpers.size()) + 1; }

void Gang::run(size_t n_items, ItemFn call, const void* fn) {
  State& state = *state_;
  if (n_items == 0) return;
  if (state.busy.exchange(true, std::memory_order_acquire)) {
    throw Error(ErrorKind::kInference, "GANG_BUSY",
                "a gang runs one region at a time: for_each was called inside a region or from a "
                "second thread");
  }
  // Cleared however the region ends.
  struct BusyGuard {
    std::atomic<bool>& busy;
    ~BusyGuard() { busy.store(false, std::memory_order_release); }
  } guard{state.busy};
  if (n_items == 1 || state.helpers.empty()) {
    for (size_t item = 0; item < n_items; ++item) call(fn, item, 0);
    return;
  }
  if (n_items > kMaxItems) throw std::bad_array_new_length();
  state.call = call;
  state.fn = fn;
  state.n_items = n_items;
  state.n_pending.store(n_items, std::memory_order_relaxed);
  const uint64_t next = generation(state.ticket.load(std::memory_order_relaxed)) + 1;
  state.ticket.store(next << 32 | n_items);
  state.wake_parked();
  state.work(0);
  for (int spins = 0; state.n_pending.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpinPauses) {
      spin_pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (!state.has_failed.load(std::memory_order_relaxed)) return;
  state.has_failed.store(false, std::memory_order_relaxed);
  std::rethrow_exception(std::exchange(state.failure, nullptr));
}

}  // namespace smallmind
