// Turns on the processors: never more threads than processors, everybody gets a turn, and nobody
// touches a waiter that has gone (D26).
#include "base/turnstile.cc"
#include "model_begin.h"
#include "model_end.h"
#include "relacy.h"

namespace smallmind {

int usable_processors(const std::string&) { return 2; }

namespace {

// Two processors: a turn of both, and two of one.
struct TurnstileSuite : rl::test_suite<TurnstileSuite, 3> {
  std::unique_ptr<Turnstile> turnstile;
  int n_in_use = 0;

  void before() {
    turnstile = std::make_unique<Turnstile>(2);
    n_in_use = 0;
  }

  void thread(unsigned index) {
    const int n_threads = index == 0 ? 2 : 1;
    const Turnstile::Turn turn(*turnstile, n_threads);
    n_in_use += n_threads;
    model::require(n_in_use <= 2, "more threads than processors");
    model::this_thread::yield();
    n_in_use -= n_threads;
  }

  void after() { turnstile.reset(); }
};

}  // namespace
}  // namespace smallmind

int main(int argc, char** argv) {
  model::Checks checks(argc, argv);
  checks.full<smallmind::TurnstileSuite>();
  return checks.status();
}
