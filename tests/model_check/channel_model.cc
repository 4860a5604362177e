// The finish-once latch of a stream: loop, canceller and engine's close race for the end; exactly
// one wins, no token comes after it, and the reader always hears of it (D26, G10, L-10).
#include "relacy.h"

#define MODEL_PLAIN_ATOMICS  // is_ended_ is written under the lock
#include "base/tracking_allocator.h"
#include "model_error.h"
#include "model_token.h"

#include "model_begin.h"
#include "engine/token_channel.cc"
#include "model_end.h"

namespace smallmind {

struct KvHold {};
class Task {};

// Told, and not asked about here.
Mailbox::Mailbox(int64_t max_queue_depth, int64_t max_running)
    : max_queue_depth_(max_queue_depth), max_running_(max_running) {}
void Mailbox::poke() {}
struct Waker::State {};
Waker::~Waker() = default;
void Waker::note(uint64_t) {}
void Waker::flush() {}
void MemoryLedger::add(MemoryCategory, size_t) noexcept {}
void MemoryLedger::subtract(MemoryCategory, size_t) noexcept {}
std::string escape(std::string_view text, size_t) { return std::string(text); }

namespace {

enum Attacker : int { kCanceller, kCloser };

// Thread 0 is the loop: a token, then the natural end. Thread 1 reads. The others attack.
template <int kAttackers>
struct ChannelSuite : rl::test_suite<ChannelSuite<kAttackers>, 2 + kAttackers> {
  std::shared_ptr<TokenChannel> channel;
  CancellationToken token;
  int n_read = 0;
  bool has_failed = false;

  void before() {
    token = CancellationToken();
    RequestSpec spec;
    spec.context = {1};
    spec.max_tokens = 2;
    spec.token = token;
    spec.max_buffered = 2;
    channel = TokenChannel::create(std::move(spec), std::make_shared<Mailbox>());
    n_read = 0;
    has_failed = false;
  }

  void thread(unsigned index) {
    if (index == 0) loop();
    if (index == 1) read();
    if (index == 2 + kCanceller) token.cancel();
    if (index == 2 + kCloser) channel->fail(closed());
  }

  static const std::shared_ptr<const Error>& closed() {
    static const auto error = std::make_shared<const Error>(ErrorKind::kEngineClosed, "closed");
    return error;
  }

  void loop() {
    Token first;
    first.text = "a";
    channel->publish(std::move(first), "", std::nullopt);
    Token last;
    last.index = 1;
    last.text = "b";
    channel->publish(std::move(last), "", FinishReason::kLength);
  }

  void read() {
    Token token_read;
    try {
      while (channel->next(token_read, Clock::duration::max()) == Stream::Status::kToken) {
        model::require(token_read.index == n_read, "a token out of order");
        ++n_read;
      }
    } catch (const Error&) {
      has_failed = true;
    }
    model::require(channel->is_ended(), "the reader went before the end");
  }

  void after() {
    const GenerationResult result = channel->result();
    const bool is_natural = !has_failed && result.finish_reason == FinishReason::kLength;
    const bool is_cancelled = !has_failed && result.finish_reason == FinishReason::kCancelled;
    model::require(is_natural || is_cancelled || has_failed, "no end");
    model::require(!is_natural || n_read == 2, "a natural end lost a token");
    model::require(!is_cancelled || n_read < 2, "a token came after the end");
    model::require(result.token_ids.size() == static_cast<size_t>(n_read), "a token came late");
    const auto settlement = channel->settle();
    model::require(settlement.has_value() && !channel->settle(), "settled other than once");
    model::require(settlement->has_failed == has_failed, "two ends");
    channel.reset();
  }
};

}  // namespace
}  // namespace smallmind

int main(int argc, char** argv) {
  using namespace smallmind;
  model::Checks checks(argc, argv);
  checks.full<ChannelSuite<1>>();
  checks.full<ChannelSuite<2>>();
  return checks.status();
}
