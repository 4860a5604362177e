#include "simulation/world.h"

#include <algorithm>

#include "allocation_counter.h"

namespace smallmind::testing {
namespace {

constexpr int kSleepLimit = 2000;  // in a row with requests alive: somebody waits in vain
constexpr int64_t kContext = 640;

// The world goes on in the middle of each step.
class WorldModel : public FakeModel {
 public:
  WorldModel(World& world, std::shared_ptr<FakeControls> controls, int64_t window)
      : FakeModel(std::move(controls), kContext, window), world_(world) {}

  bool forward(std::span<const SequenceSlice> slices, Workspace& workspace, Gang& gang,
               StepWatch* watch) const override {
    world_.act_in_step();
    if (watch != nullptr && !watch->is_wanted()) return false;
    return FakeModel::forward(slices, workspace, gang, watch);
  }

 private:
  World& world_;
};

bool begins_with(const std::vector<int32_t>& whole, const std::vector<int32_t>& beginning) {
  return beginning.size() <= whole.size() &&
         std::equal(beginning.begin(), beginning.end(), whole.begin());
}

}  // namespace

void World::fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
}

EngineOptions World::make_options() {
  EngineOptions options;
  options.enable_kv_cache = !chance(10);
  options.kv_limit = FakeModel::kPageBytes * (chance(60) ? 26 + pick(40) : 400);
  options.max_queue_depth = chance(30) ? 1 + pick(4) : 0;
  options.max_buffered_tokens = 1 + pick(8);
  options.on_full = chance(20) ? OnFull::kError : OnFull::kPause;
  options.request_timeout_s = chance(10) ? 0.05 : 0;
  return options;
}

std::string World::run() {
  options_ = make_options();
  n_events_left_ = 20 + static_cast<int>(pick(60));
  const int64_t window = chance(40) ? 40 + pick(80) : 0;
  set_world(this);
  try {
    engine_ = EngineImpl::create(std::make_shared<WorldModel>(*this, controls_, window),
                                 std::make_shared<FakeTokenizer>(), std::make_unique<Gang>(1),
                                 options_, {});
  } catch (const Error& error) {
    set_world(nullptr);
    return std::string("no engine: ") + error.what();
  }
  is_ready_.store(true);
  is_ready_.notify_all();
  is_over_.wait(false);
  engine_->close();
  set_world(nullptr);
  if (controls_->n_violations > 0) fail("the model met a wrong page or position");
  places_.clear();
  engine_.reset();
  return failure_;
}

// --- The loop's calls. ---

void World::act_in_step() {
  fail_allocation_of_this_thread(-1);
  n_sleeps_ = 0;
  advance_clock(std::chrono::microseconds(100 + pick(9000)));
  for (unsigned i = pick(3); i > 0; --i) act();
  if (n_events_left_ > 0 && chance(3)) {
    was_memory_refused_ = true;
    fail_allocation_of_this_thread(pick(12));
  }
}

void World::act_while_asleep() {
  fail_allocation_of_this_thread(-1);
  is_ready_.wait(false);
  advance_clock(std::chrono::milliseconds(1 + pick(5)));
  if (++n_sleeps_ > kSleepLimit) {
    fail("requests wait in vain: " + describe());
    n_events_left_ = 0;
    for (Place& place : places_) place = {};
  }
  act();
}

std::string World::describe() const {
  const EngineStatus status = engine_->status();
  std::string text = std::to_string(status.n_running) + " running, " +
                     std::to_string(status.n_queued) + " queued, " +
                     std::to_string(status.n_kv_pages) + " pages of " +
                     std::to_string(options_.kv_limit / FakeModel::kPageBytes);
  text += was_memory_refused_ ? " (memory was refused)" : "";
  for (const Place& place : places_) {
    if (!place.call) continue;
    const GenerationResult result = place.call->stream->result();
    text += "; a prompt of " + std::to_string(result.usage.prompt_tokens) + ", " +
            std::to_string(place.call->received.size()) + " of " +
            std::to_string(result.usage.max_tokens) + " read";
  }
  return text;
}

void World::act() {
  if (n_events_left_ > 0) {
    --n_events_left_;
    act_on(places_[pick(static_cast<unsigned>(places_.size()))]);
  } else {
    wind_down();
  }
}

void World::act_on(Place& place) {
  if (!place.session) return open_session(place);
  if (!place.call) {
    const unsigned what = pick(12);
    if (what == 0) return fork(place);
    if (what == 1) return place.session->reset();
    if (what == 2) {
      place.session->close();
      place = {};
      return;
    }
    return start(place);
  }
  if (chance(10)) return interfere(place);
  if (!place.call->is_slow || chance(20)) read(place, 1 + static_cast<int>(pick(6)));
}

// --- What a program does. ---

void World::open_session(Place& place) {
  SessionOptions options;
  const unsigned salt = pick(4);
  if (salt > 0) options.cache_salt = "salt" + std::to_string(salt);
  options.fairness_key = std::string(1, static_cast<char>('a' + pick(3)));
  if (chance(10)) options.max_kv_tokens = 40 + pick(200);
  options.id = options.cache_salt;
  place.session = engine_->text_session(options);
}

// Few beginnings, so that many are shared.
std::string World::prompt() {
  std::string text(1 + pick(chance(30) ? 300 : 70), static_cast<char>('p' + pick(2)));
  if (chance(50)) text += std::to_string(pick(3));
  return text;
}

void World::start(Place& place) {
  Call call;
  const std::string text = prompt();
  call.context = place.session->token_ids();
  if (call.context.empty()) call.context.push_back(kBos);
  for (const char c : text) call.context.push_back(static_cast<unsigned char>(c));
  const int64_t max_tokens = 1 + pick(chance(20) ? 60 : 12);
  call.expected = fake_greedy(call.context, static_cast<size_t>(max_tokens));
  call.is_slow = chance(20);
  RequestOptions options;
  options.cancel = call.token;
  options.collect_only = chance(25);
  if (chance(10)) options.timeout_s = 0.001 * (1 + pick(60));
  const std::string& id = place.session->id();
  if (id.starts_with("salt")) call.salt = static_cast<size_t>(id.at(4) - '0');
  ++n_calls_of_salt_[call.salt];
  try {
    call.stream = place.session->start_text(text, greedy(max_tokens), options);
    place.call = std::move(call);
  } catch (const Error& error) {
    check_error(error, true);
  }
}

void World::read(Place& place, int n_at_most) {
  Call& call = *place.call;
  Token token;
  try {
    for (int i = 0; i < n_at_most; ++i) {
      const Stream::Status status = call.stream->next(token, Clock::duration::zero());
      if (status == Stream::Status::kTimedOut) return;
      if (status == Stream::Status::kEnd) return finish(place, true);
      call.received.push_back(token.id);
    }
  } catch (const Error& error) {
    check_error(error, false);
    finish(place, false);
  }
}

void World::interfere(Place& place) {
  switch (pick(6)) {
    case 0:
      return place.call->stream->cancel();
    case 1:
      return place.session->cancel();
    case 2:
      return place.call->token.cancel();
    case 3:
      return place.call->token.cancel_after(0.001 * (1 + pick(20)));
    case 4:
      place.call->stream->close();
      return finish(place, false);
    default:
      place.session->close();
      check_result(*place.call, false);
      place = {};
  }
}

void World::fork(Place& place) {
  Place& other = places_[pick(static_cast<unsigned>(places_.size()))];
  if (other.session) return;
  other.session = place.session->fork(place.session->id());
  if (other.session->token_ids() != place.session->token_ids()) fail("a fork differs");
}

// --- What must hold. ---

void World::check_error(const Error& error, bool is_submit) {
  switch (error.kind()) {
    case ErrorKind::kQueueFull:
      if (is_submit && options_.max_queue_depth > 0) return;
      break;
    case ErrorKind::kContextLength:
      if (is_submit) return;
      break;
    case ErrorKind::kBufferFull:
      if (!is_submit && options_.on_full == OnFull::kError) return;
      break;
    case ErrorKind::kMemoryBudget:
      if (was_memory_refused_ || (is_submit && options_.kv_limit < 100 * FakeModel::kPageBytes)) {
        return;
      }
      break;
    default:
      break;
  }
  fail(error.code() + ": " + error.what());
}

// The end of a call: its tokens are those of the same request alone, or their beginning.
void World::finish(Place& place, bool is_read_out) {
  const Call& call = *place.call;
  if (!call.stream->finished()) fail("at its end a stream is not finished");
  if (place.session->busy()) fail("after the end its session is busy");
  check_result(call, is_read_out);
  place.call.reset();
}

void World::check_result(const Call& call, bool is_read_out) {
  const GenerationResult result = call.stream->result();
  if (!begins_with(call.expected, result.token_ids)) fail("other tokens than alone");
  if (!begins_with(result.token_ids, call.received)) fail("tokens read are not in the result");
  const bool is_first_of_salt = call.salt > 0 && n_calls_of_salt_[call.salt] == 1;
  if (is_first_of_salt && result.usage.cached_tokens > 0) fail("a hit across salts");
  if (!is_read_out) return;
  const auto n = static_cast<int64_t>(result.token_ids.size());
  if (result.finish_reason == FinishReason::kLength && n != result.usage.max_tokens) {
    fail("ended by length before its length");
  }
  if (result.finish_reason == FinishReason::kStop && result.token_ids != call.expected) {
    fail("stopped before its end");
  }
}

// No more events: everything is read to its end, then closed, then nothing may be left.
void World::wind_down() {
  bool has_calls = false;
  for (Place& place : places_) {
    if (place.call) read(place, 1000);
    has_calls = has_calls || place.call;
  }
  if (has_calls) return;
  for (Place& place : places_) {
    if (place.session) place.session->close();
    place = {};
  }
  if (++n_rests_ < 3) return engine_->mailbox()->poke();  // the loop has yet to take notice
  if (n_rests_ == 3) check_rest();
  is_over_.store(true);
  is_over_.notify_all();
}

void World::check_rest() {
  const EngineStatus status = engine_->status();
  if (status.n_running != 0 || status.n_queued != 0) fail("a request is left");
  if (status.n_kv_pages != 0) fail("pages are left: " + std::to_string(status.n_kv_pages));
  if (status.n_sessions != 0) fail("a session is left");
}

}  // namespace smallmind::testing
