#include "engine/text_session.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <utility>

#include "base/counter_rng.h"
#include "base/number_text.h"
#include "base/utf8.h"
#include "engine/stream_handle.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr int64_t kDefaultMaxTokens = 512;

uint64_t drawn_seed() {
  uint64_t seed = 0;
  if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == sizeof seed) return seed;
  // A sandbox may forbid the call; the seed is no secret, it only has to differ.
  static std::atomic<uint32_t> n_drawn{0};
  const auto now = static_cast<uint64_t>(Clock::now().time_since_epoch().count());
  const std::array<uint32_t, 4> bits = philox4x32(
      {static_cast<uint32_t>(now), static_cast<uint32_t>(now >> 32), n_drawn.fetch_add(1), 0},
      {static_cast<uint32_t>(getpid()), 0});
  return uint64_t{bits[1]} << 32 | bits[0];
}

// The caller's token and the timeouts in one: the earliest cause wins and keeps its reason.
CancellationToken request_token(const RequestOptions& options, double engine_timeout_s) {
  std::vector<CancellationToken> parents;
  if (options.cancel) parents.push_back(*options.cancel);
  if (options.timeout_s) {
    if (!std::isfinite(*options.timeout_s) || *options.timeout_s <= 0) {
      throw Error(
          ErrorKind::kInvalidArgument,
          "timeout: want a finite number of seconds > 0, got " + number_text(*options.timeout_s));
    }
    parents.push_back(CancellationToken::with_timeout(*options.timeout_s));
  }
  if (engine_timeout_s > 0) parents.push_back(CancellationToken::with_timeout(engine_timeout_s));
  return CancellationToken::linked(parents);
}

}  // namespace

TextSession::TextSession(std::shared_ptr<EngineImpl> engine, SessionOptions options)
    : engine_(std::move(engine)),
      options_(std::move(options)),
      hold_(engine_->options().enable_kv_cache ? std::make_shared<KvHold>() : nullptr),
      account_(engine_->account(options_.fairness_key)) {}

TextSession::~TextSession() {
  const ForkGuard guard = fork_guard();
  if (!guard.is_forked()) {
    try {
      close();
    } catch (...) {
      // Want of memory for a note to the loop: it frees the KV when the engine ends.
    }
  }
  guard.leak_if_forked(engine_);
}

std::shared_ptr<Stream> TextSession::start_text(std::string_view prompt,
                                                const SamplingParams& params,
                                                const RequestOptions& options) {
  if (prompt.empty()) throw Error(ErrorKind::kInvalidArgument, "prompt: is empty");
  const auto make_context = [&](std::vector<int32_t> context) {
    const std::shared_ptr<const Tokenizer> tokenizer = engine_->tokenizer();
    if (context.empty() && tokenizer->add_bos() && tokenizer->bos_id() >= 0) {
      context.push_back(tokenizer->bos_id());
    }
    const std::vector<int32_t> ids = tokenizer->encode(prompt, false, false);
    context.insert(context.end(), ids.begin(), ids.end());
    return context;
  };
  return start(make_context, params, options);
}

std::shared_ptr<Stream> TextSession::start_ids(std::span<const int32_t> ids,
                                               const SamplingParams& params,
                                               const RequestOptions& options) {
  engine_->check_usable();
  if (ids.empty()) throw Error(ErrorKind::kInvalidArgument, "ids: are empty");
  engine_->check_ids(ids);
  const auto make_context = [ids](std::vector<int32_t> context) {
    context.insert(context.end(), ids.begin(), ids.end());
    return context;
  };
  return start(make_context, params, options);
}

std::shared_ptr<Stream> TextSession::start_context(std::span<const int32_t> ids,
                                                   const SamplingParams& params,
                                                   const RequestOptions& options) {
  engine_->check_usable();
  if (ids.empty()) throw Error(ErrorKind::kInvalidArgument, "ids: are empty");
  engine_->check_ids(ids);
  return start([ids](std::vector<int32_t>) { return std::vector(ids.begin(), ids.end()); }, params,
               options);
}

std::shared_ptr<Stream> TextSession::start(const MakeContext& make_context,
                                           const SamplingParams& params,
                                           const RequestOptions& options) {
  engine_->check_usable();
  validate(params, engine_->info().n_vocab);
  // The clock starts here.
  const CancellationToken token = request_token(options, engine_->options().request_timeout_s);
  Claim claimed = claim(options.collect_only);
  try {
    RequestSpec spec = make_spec(make_context(std::move(claimed.history)), params);
    spec.token = token;
    spec.is_collect_only = options.collect_only;
    return open(std::move(spec));
  } catch (...) {
    unclaim(claimed.number);
    throw;
  }
}

RequestSpec TextSession::make_spec(std::vector<int32_t> context,
                                   const SamplingParams& params) const {
  const int64_t n_prompt = static_cast<int64_t>(context.size());
  if (n_prompt == 0) throw Error(ErrorKind::kInvalidArgument, "prompt: has no tokens");
  const int64_t limit = options_.max_kv_tokens;
  if (n_prompt >= limit) {
    throw Error(ErrorKind::kContextLength,
                in_session(options_.id, "the prompt and what the session holds are " +
                                            std::to_string(n_prompt) +
                                            " tokens; the context holds " + std::to_string(limit) +
                                            ", and at least one must be left to generate"));
  }
  RequestSpec spec;
  spec.hold = hold_;
  spec.account = account_;
  spec.ledger = engine_->ledger();
  spec.context = std::move(context);
  spec.params = params;
  spec.seed = params.seed ? *params.seed : drawn_seed();
  const int64_t wanted =
      params.max_tokens ? *params.max_tokens : engine_->fitting_tokens(n_prompt, kDefaultMaxTokens);
  spec.max_tokens = std::min(wanted, limit - n_prompt);
  spec.session_id = options_.id;
  spec.cache_salt = options_.cache_salt;
  spec.max_buffered = static_cast<size_t>(engine_->options().max_buffered_tokens);
  spec.on_full = engine_->options().on_full;
  return spec;
}

// The one door: of two threads that come at once, one gets the session and the other an error.
TextSession::Claim TextSession::claim(bool is_collect_only) {
  give_way_if_cancelled();
  MutexLock lock(mutex_);
  check_open();
  if (open_) throw_busy();
  Claim claimed{++n_calls_, history_};
  open_.emplace();
  open_->number = claimed.number;
  open_->is_collect_only = is_collect_only;
  return claimed;
}

void TextSession::unclaim(uint64_t number) {
  MutexLock lock(mutex_);
  if (open_ && open_->number == number) open_.reset();
}

std::shared_ptr<Stream> TextSession::open(RequestSpec spec) {
  const std::shared_ptr<TokenChannel> channel =
      TokenChannel::create(std::move(spec), engine_->mailbox());
  auto stream = std::make_shared<StreamHandle>(shared_from_this(), channel);
  bool is_cancelled = false;
  {
    MutexLock lock(mutex_);
    check_open();
    open_->channel = channel;
    is_cancelled = open_->is_cancelled;
  }
  if (is_cancelled) channel->finish(FinishReason::kCancelled);  // it came while we prepared
  // What was cancelled before it began takes no place in a queue, so none can be refused.
  if (channel->is_ended()) return stream;
  try {
    engine_->submit(channel);
  } catch (const Error& error) {
    // So the dropped stream leaves the context as it was.
    channel->fail(std::make_shared<const Error>(error));
    throw Error(error.kind(), error.code(), in_session(options_.id, error.what()));
  }
  return stream;
}

// After session.cancel() the next call need not wait for whoever still holds the old stream: it is
// closed with what its reader has received.
void TextSession::give_way_if_cancelled() {
  std::shared_ptr<TokenChannel> channel;
  {
    MutexLock lock(mutex_);
    if (!open_ || !open_->is_cancelled) return;
    channel = open_->channel;
  }
  if (!channel) return;
  settle(*channel);
  channel->abandon();
  settle(*channel);
}

void TextSession::check_open() const {
  if (!is_closed_) return;
  throw Error(ErrorKind::kSessionClosed, "session '" + escape(options_.id) + "' was closed");
}

void TextSession::throw_busy() const {
  const std::chrono::duration<double> open_for = Clock::now() - open_->since;
  const std::string what = open_->is_collect_only ? "a generate call" : "a stream";
  const double seconds = std::floor(open_for.count() * 1000) / 1000;
  throw Error(ErrorKind::kSessionBusy,
              "session '" + escape(options_.id) + "' is busy: " + what + " has been open for " +
                  number_text(seconds) +
                  " s; wait for its end, close it, or call session.cancel() from any thread");
}

void TextSession::settle(TokenChannel& channel) {
  std::optional<TokenChannel::Settlement> settlement = channel.settle();
  if (!settlement) return;
  std::vector<int32_t> context;
  if (!settlement->has_failed) {
    context.reserve(channel.spec().context.size() + settlement->received.size());
    context = channel.spec().context;
    context.insert(context.end(), settlement->received.begin(), settlement->received.end());
  }
  MutexLock lock(mutex_);
  if (!open_ || open_->channel.get() != &channel) return;
  if (!settlement->has_failed) keep_history(std::move(context));
  open_.reset();
}

void TextSession::cancel() {
  fork_guard().check();
  std::shared_ptr<TokenChannel> channel;
  {
    MutexLock lock(mutex_);
    if (!open_) return;
    open_->is_cancelled = true;
    channel = open_->channel;
  }
  if (channel) channel->finish(FinishReason::kCancelled);
}

void TextSession::reset() {
  engine_->check_usable();
  give_way_if_cancelled();
  MutexLock lock(mutex_);
  check_open();
  if (open_) throw_busy();
  keep_history({});
  // Under the lock, so that no request of this session can reach the loop before it.
  if (hold_) engine_->mailbox()->release(hold_);
}

void TextSession::close() {
  if (fork_guard().is_forked()) return;
  std::shared_ptr<TokenChannel> channel;
  {
    MutexLock lock(mutex_);
    if (std::exchange(is_closed_, true)) return;
    if (open_) {
      open_->is_cancelled = true;
      channel = open_->channel;
    }
  }
  // Ended first: the loop frees only what no live request uses.
  if (channel) channel->finish(FinishReason::kCancelled);
  if (hold_) engine_->mailbox()->release(hold_);
  engine_->note_session_closed();
}

std::shared_ptr<Session> TextSession::fork(std::string id) {
  engine_->check_usable();
  give_way_if_cancelled();
  SessionOptions options = options_;
  options.id = std::move(id);
  auto copy = std::static_pointer_cast<TextSession>(engine_->text_session(options));
  std::vector<int32_t> history;
  {
    MutexLock lock(mutex_);
    check_open();
    if (open_) throw_busy();
    history = history_;
    // Under the lock, so that the loop sees it before the next request of this session.
    if (hold_) engine_->mailbox()->copy(hold_, copy->hold_);
  }
  copy->start_with(std::move(history));
  return copy;
}

// Before anybody else has the session.
void TextSession::start_with(std::vector<int32_t> history) {
  MutexLock lock(mutex_);
  keep_history(std::move(history));
}

void TextSession::keep_history(std::vector<int32_t> history) {
  history_ = std::move(history);
  history_charge_ = MemoryCharge(engine_->ledger(), MemoryCategory::kRequests,
                                 history_.capacity() * sizeof(int32_t));
}

bool TextSession::closed() const {
  fork_guard().check();
  MutexLock lock(mutex_);
  return is_closed_;
}

bool TextSession::busy() const {
  fork_guard().check();
  MutexLock lock(mutex_);
  return open_.has_value();
}

std::vector<int32_t> TextSession::token_ids() const {
  fork_guard().check();
  MutexLock lock(mutex_);
  return history_;
}

int64_t TextSession::size() const {
  fork_guard().check();
  MutexLock lock(mutex_);
  return static_cast<int64_t>(history_.size());
}

}  // namespace smallmind
