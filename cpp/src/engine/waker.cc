#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "base/mutex.h"
#include "smallmind/error.h"
#include "smallmind/stream.h"

namespace smallmind {

struct Waker::State {
  int fd = -1;
  Mutex mutex;
  std::vector<uint64_t> ready GUARDED_BY(mutex);         // in the order of the news
  std::unordered_set<uint64_t> known GUARDED_BY(mutex);  // the same keys
  bool is_unwritten GUARDED_BY(mutex) = false;           // news that the descriptor does not show
};

Waker::Waker() : state_(std::make_unique<State>()) {
  state_->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (state_->fd < 0) {
    throw Error(ErrorKind::kInference, "WAKER_UNAVAILABLE",
                "eventfd: " + std::generic_category().message(errno));
  }
}

Waker::~Waker() { close(state_->fd); }

int Waker::fd() const noexcept { return state_->fd; }

// Empties the descriptor first: news that comes in between writes it again, which costs one idle
// wake-up; the other order could lose news.
std::vector<uint64_t> Waker::take_ready() {
  uint64_t count = 0;
  while (read(state_->fd, &count, sizeof count) < 0 && errno == EINTR) {
  }
  MutexLock lock(state_->mutex);
  state_->known.clear();
  return std::exchange(state_->ready, {});
}

void Waker::note(uint64_t key) {
  MutexLock lock(state_->mutex);
  if (!state_->known.insert(key).second) return;
  state_->ready.push_back(key);
  state_->is_unwritten = true;
}

void Waker::flush() {
  {
    MutexLock lock(state_->mutex);
    if (!std::exchange(state_->is_unwritten, false)) return;
  }
  const uint64_t one = 1;
  while (write(state_->fd, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

}  // namespace smallmind
