// base/compute_thread.h over Relacy.
#pragma once

#include "relacy.h"

namespace smallmind {

inline void enter_compute_thread(const char*) {}
inline void reset_float_environment() noexcept {}

struct SignalsBlocked {
  SignalsBlocked() {}
};

class ComputeThread {
 public:
  ComputeThread(const std::string&, size_t, std::function<void()> main)
      : thread_([this, main = std::move(main)] {
          index_ = static_cast<int>(rl::ctx().current_thread());
          main();
        }) {}
  ~ComputeThread() { thread_.join(); }
  bool is_current() const { return index_ == static_cast<int>(rl::ctx().current_thread()); }

 private:
  int index_ = -1;
  model::Thread thread_;
};

}  // namespace smallmind
