#include "hooks.h"

namespace smallmind::bindings {
namespace {

constexpr std::chrono::milliseconds kSignalInterval{10};
// With the last call at the end, no second sees more than 20 calls.
constexpr std::chrono::milliseconds kProgressInterval{56};

// Carries "a Python error is kept in raised_" through the core, which must not own Python objects.
struct CallbackRaised {};

}  // namespace

Hooks::Hooks(py::object progress, const std::optional<CancellationToken>& cancel)
    : progress_(std::move(progress)),
      main_thread_(in_main_thread()),
      last_signals_(Clock::now()),
      last_progress_(last_signals_ - kProgressInterval) {  // the first report comes at once
  if (!progress_.is_none() && PyCallable_Check(progress_.ptr()) == 0) {
    throw py::type_error("progress: wants a callable(stage, done, total), a bool or None");
  }
  if (cancel) hooks_.cancel = *cancel;
  if (main_thread_ || !progress_.is_none()) {
    hooks_.tick = [this](const char* stage, unsigned long long done, unsigned long long total) {
      tick(stage, done, total);
    };
  }
}

void Hooks::tick(const char* stage, unsigned long long done, unsigned long long total) {
  if (stage_ != stage) {
    stage_ = stage;
    reported_ = 0;
  }
  total_ = total;
  const Clock::time_point now = Clock::now();
  const bool signals_due = main_thread_ && now - last_signals_ >= kSignalInterval;
  const bool progress_due = !progress_.is_none() && now - last_progress_ >= kProgressInterval;
  if (!signals_due && !progress_due) return;
  released_->take();
  try {
    if (signals_due) check_signals();
    if (progress_due) progress_(stage, done, total);
  } catch (py::error_already_set& error) {
    raised_.emplace(std::move(error));
  }
  released_->give();
  if (raised_) throw CallbackRaised{};
  last_signals_ = Clock::now();
  if (progress_due) {
    last_progress_ = last_signals_;
    reported_ = done;
  }
}

void Hooks::report_end() {
  if (!progress_.is_none() && total_ > 0 && reported_ < total_) progress_(stage_, total_, total_);
}

}  // namespace smallmind::bindings
