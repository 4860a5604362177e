// One simulated program around a real engine: everything happens in the engine's loop thread, in an
// order that a seed decides, on a clock that the simulation moves.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/fake_engine.h"
#include "smallmind/error.h"

namespace smallmind::testing {

// The loop calls act_in_step() in the middle of every step, and act_while_asleep() whenever it
// would sleep. Nothing else runs meanwhile: the thread that made the world waits for its end.
class World {
 public:
  explicit World(uint64_t seed) : random_(seed) {}

  // Builds the engine, lives through the seed's events, closes. What went wrong; empty: nothing.
  std::string run();

  void act_in_step();
  void act_while_asleep();
  bool is_over() const { return is_over_.load(); }

 private:
  // A request, and what it should become.
  struct Call {
    std::shared_ptr<Stream> stream;
    CancellationToken token;
    std::vector<int32_t> context;
    std::vector<int32_t> expected;  // the same request alone
    std::vector<int32_t> received;
    size_t salt = 0;       // 0: none
    bool is_slow = false;  // reads now and then only
  };
  struct Place {
    std::shared_ptr<Session> session;
    std::optional<Call> call;
  };

  unsigned pick(unsigned n) { return static_cast<unsigned>(random_() % n); }
  bool chance(unsigned percent) { return pick(100) < percent; }
  void fail(const std::string& what);
  std::string describe() const;
  EngineOptions make_options();
  std::string prompt();

  void act();
  void act_on(Place& place);
  void open_session(Place& place);
  void start(Place& place);
  void read(Place& place, int n_at_most);
  void interfere(Place& place);
  void fork(Place& place);
  void wind_down();
  void check_rest();
  void finish(Place& place, bool is_read_out);
  void check_error(const Error& error, bool is_submit);
  void check_result(const Call& call, bool is_read_out);

  std::mt19937_64 random_;
  EngineOptions options_;
  std::shared_ptr<EngineImpl> engine_;
  std::shared_ptr<FakeControls> controls_ = std::make_shared<FakeControls>();
  std::vector<Place> places_{6};
  std::string failure_;
  int n_calls_of_salt_[4] = {};
  int n_events_left_ = 0;
  int n_sleeps_ = 0;  // in a row
  int n_rests_ = 0;
  bool was_memory_refused_ = false;
  std::atomic<bool> is_ready_{false};
  std::atomic<bool> is_over_{false};
};

// The clock of the whole process, and the world that a sleeping thread calls instead; a new world
// begins at the same time as every other.
void advance_clock(Clock::duration by);
void set_world(World* world);

}  // namespace smallmind::testing
