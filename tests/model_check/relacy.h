// Relacy in the shape of the standard library, so that a model runs the core's own source: include
// this first, then the .cc file under test between model_begin.h and model_end.h.
//
// Every operation of Atomic and every acquisition of a Mutex is a point at which Relacy tries all
// threads. Atomics have weak memory (a load may return any value that the C++ model allows); plain
// data of the source does not, so models put rl::var where an ordering matters. A Mutex is released
// without such a point: what it guards is seen by nobody else before (clang's analysis proves it),
// so the interleavings that this leaves out differ in nothing.
#pragma once

// What the sources include, before any of it is renamed.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "base/processor.h"

// Not relacy.hpp: that one also redefines new, free, errno and a hundred names of Windows.
#include <relacy/base.hpp>
#include <relacy/context.hpp>
#include <relacy/context_base_impl.hpp>
#include <relacy/backoff.hpp>
#include <relacy/atomic_fence.hpp>
#include <relacy/atomic.hpp>
#include <relacy/var.hpp>
#include <relacy/test_suite.hpp>
#include <relacy/dyn_thread.hpp>
#include <relacy/stdlib/mutex.hpp>
#include <relacy/stdlib/condition_variable.hpp>
#include <relacy/stdlib/semaphore.hpp>
#include <relacy/stdlib/event.hpp>

namespace model {

// Where Relacy wants the place of a call: this file, for all of them.
inline rl::debug_info here() { return RL_INFO; }

constexpr rl::memory_order order(std::memory_order wanted) {
  switch (wanted) {
    case std::memory_order_relaxed:
      return rl::mo_relaxed;
    case std::memory_order_consume:
      return rl::mo_consume;
    case std::memory_order_acquire:
      return rl::mo_acquire;
    case std::memory_order_release:
      return rl::mo_release;
    case std::memory_order_acq_rel:
      return rl::mo_acq_rel;
    case std::memory_order_seq_cst:
      break;
  }
  return rl::mo_seq_cst;
}

constexpr rl::memory_order failure_order(std::memory_order wanted) {
  if (wanted == std::memory_order_acq_rel) return rl::mo_acquire;
  if (wanted == std::memory_order_release) return rl::mo_relaxed;
  return order(wanted);
}

// std::atomic.
template <class T>
class Atomic {
  using Order = std::memory_order;
  static constexpr Order kSeqCst = std::memory_order_seq_cst;

 public:
  Atomic() : Atomic(T{}) {}
  Atomic(T value) : inner_(value) {}  // NOLINT: implicit as in the standard
  T load(Order o = kSeqCst) const { return inner_.load(order(o), here()); }
  void store(T value, Order o = kSeqCst) { inner_.store(value, order(o), here()); }
  T exchange(T value, Order o = kSeqCst) { return inner_.exchange(value, order(o), here()); }
  T fetch_add(T value, Order o = kSeqCst) { return inner_.fetch_add(value, order(o), here()); }
  T fetch_sub(T value, Order o = kSeqCst) { return inner_.fetch_sub(value, order(o), here()); }
  bool compare_exchange_strong(T& seen, T value, Order o = kSeqCst) {
    return exchange_if<false>(seen, value, o, o);
  }
  bool compare_exchange_strong(T& seen, T value, Order o, Order failed) {
    return exchange_if<false>(seen, value, o, failed);
  }
  bool compare_exchange_weak(T& seen, T value, Order o = kSeqCst) {
    return exchange_if<true>(seen, value, o, o);
  }
  bool compare_exchange_weak(T& seen, T value, Order o, Order failed) {
    return exchange_if<true>(seen, value, o, failed);
  }
  operator T() const { return load(); }  // NOLINT
  T operator=(T value) {
    store(value);
    return value;
  }
  T operator++() { return fetch_add(1) + 1; }
  T operator--() { return fetch_sub(1) - 1; }

  // A futex: compares and sleeps in one, woken by notify only.
  void wait(T old, Order = kSeqCst) const {
    for (;;) {
      rl::context& context = rl::ctx();
      context.sched();
      context.atomic_thread_fence_seq_cst();
      {
        rl::preemption_disabler together(context);
        if (inner_.load(rl::mo_acquire, here()) != old) return;
      }
      inner_.wait(context, false, false, here());
    }
  }
  void notify_one() { wake(1); }
  void notify_all() { wake(1000); }

 private:
  template <bool kMayFail>
  bool exchange_if(T& seen, T value, Order o, Order failed) {
    return inner_.compare_exchange(rl::bool_t<kMayFail>(), seen, value, order(o),
                                   failure_order(failed), here());
  }
  void wake(rl::thread_id_t n) {
    rl::context& context = rl::ctx();
    context.sched();
    context.atomic_thread_fence_seq_cst();
    inner_.wake(context, n, here());
  }

  mutable rl::atomic<T> inner_;
};

// An atomic at which nobody comes between: for those that the model at hand does not ask about, as
// one that is written under a lock and read without it for a hint.
template <class T>
class Plain {
  using Order = std::memory_order;
  static constexpr Order kSeqCst = std::memory_order_seq_cst;

 public:
  Plain(T value) : value_(value) {}  // NOLINT
  T load(Order = kSeqCst) const { return value_; }
  void store(T value, Order = kSeqCst) { value_ = value; }
  T exchange(T value, Order = kSeqCst) { return std::exchange(value_, value); }
  T fetch_add(T value, Order = kSeqCst) { return std::exchange(value_, value_ + value); }
  T fetch_sub(T value, Order = kSeqCst) { return std::exchange(value_, value_ - value); }
  operator T() const { return value_; }  // NOLINT
  void wait(T, Order = kSeqCst) const {}
  void notify_all() {}
  T operator=(T value) { return value_ = value; }

 private:
  T value_;
};

// std::recursive_mutex.
class RecursiveMutex {
 public:
  void lock() { inner_.lock(here()); }
  void unlock() {
    rl::preemption_disabler at_once(rl::ctx());
    inner_.unlock(here());
  }

 private:
  rl::recursive_mutex inner_;
};

// std::thread. A thread that nobody joins is a deadlock or a leak in Relacy's eyes.
class Thread {
 public:
  Thread() = default;
  template <class Main>
  explicit Thread(Main main) : state_(std::make_unique<State>()) {
    state_->main = std::move(main);
    state_->thread.start(
        [](void* state) -> void* {
          static_cast<State*>(state)->main();
          return nullptr;
        },
        state_.get());
  }
  void join() { state_->thread.join(); }
  bool joinable() const { return state_ != nullptr; }

 private:
  struct State {
    std::function<void()> main;
    rl::dyn_thread thread;
  };
  std::unique_ptr<State> state_;
};

// Lets the others go on for a while: a look that finds nothing new changes nothing, so those that
// would come sooner need no runs of their own.
inline void pause() { rl::yield(20, here()); }

namespace this_thread {
inline void yield() { pause(); }
}  // namespace this_thread

// A clock that an hour passes on between two looks: whatever waits for a time finds it come.
struct Clock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<Clock>;
  static constexpr bool is_steady = true;
  static inline int64_t n_looks = 0;
  static time_point now() { return time_point(std::chrono::hours(++n_looks)); }
};

// REQUIRE of a model: its failure is what Relacy reports.
inline void require(bool holds, const char* what) {
  if (!holds) rl::ctx().fail_test(what, rl::test_result_user_assert_failed, here());
}

// Relacy counts every allocation and tries each way to reuse its memory, which multiplies the runs
// by thousands; AddressSanitizer looks at memory elsewhere, on the same sources.
template <class Suite, template <rl::thread_id_t> class Scheduler>
class Search : public rl::context_impl<Suite, Scheduler<Suite::params::thread_count>> {
  using Base = rl::context_impl<Suite, Scheduler<Suite::params::thread_count>>;

 public:
  using Base::alloc;
  using Base::Base;
  using Base::free;
  void* alloc(size_t n) override { return std::malloc(n); }
  void free(void* memory) override { std::free(memory); }
};

template <class Suite, template <rl::thread_id_t> class Scheduler>
rl::test_result_e search(rl::test_params& params, std::ostream& state) {
  typename Scheduler<Suite::params::thread_count>::shared_context_t shared;
  std::istringstream from(params.initial_state);
  const bool is_replay = !params.initial_state.empty();
  return Search<Suite, Scheduler>(params, shared).simulate(state, from, is_replay);
}

// The searches of one model. With the argument "broken" the source was broken on purpose, and one
// of them must find it; otherwise none may find anything, and what one finds is shown with its
// history.
class Checks {
 public:
  Checks(int argc, char** argv) : is_broken_(argc > 1 && std::string_view(argv[1]) == "broken") {}

  // Every interleaving.
  template <class Suite>
  void full() {
    rl::test_params params;
    params.search_type = rl::sched_full;
    run<Suite, rl::full_search_scheduler>(params);
  }
  // Every interleaving in which a thread that could go on is stopped at most so many times.
  template <class Suite>
  void bounded(unsigned n_preemptions) {
    rl::test_params params;
    params.search_type = rl::sched_bound;
    params.context_bound = n_preemptions;
    run<Suite, rl::context_bound_scheduler>(params);
  }
  int status() const { return is_violated_ == is_broken_ ? 0 : 1; }

 private:
  template <class Suite, template <rl::thread_id_t> class Scheduler>
  void run(rl::test_params params) {
    if (is_violated_) return;
    std::ostringstream history;
    std::ostringstream state;
    params.output_stream = &history;
    params.progress_stream = &history;
    const rl::test_result_e result = search<Suite, Scheduler>(params, state);
    is_violated_ = result != rl::test_result_success;
    std::cout << (is_violated_ ? "violated in run " : "holds in all ") << params.stop_iteration
              << (is_violated_ ? ": " : " runs")
              << (is_violated_ ? rl::test_result_str(result) : "") << std::endl;
    if (!is_violated_ || is_broken_) return;
    params.initial_state = state.str();
    params.collect_history = true;
    search<Suite, Scheduler>(params, state);
    std::cout << history.str() << std::endl;
  }

  const bool is_broken_;
  bool is_violated_ = false;
};

}  // namespace model

// The names by which the renamed source finds the above.
namespace std {
template <class T>
using model_atomic = model::Atomic<T>;
template <class T>
using model_plain = model::Plain<T>;
using model_recursive_mutex = model::RecursiveMutex;
using model_thread = model::Thread;
namespace model_this_thread = model::this_thread;
namespace chrono {
using model_clock = model::Clock;
}
}  // namespace std
