#include "engine/engine_impl.h"

#include <algorithm>
#include <system_error>
#include <utility>
#include <vector>

#include "base/utf8.h"
#include "engine/score_job.h"
#include "engine/text_session.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr size_t kMaxNameBytes = 256;

std::string generated_session_id() {
  static std::atomic<uint64_t> next{1};
  return "session-" + std::to_string(next.fetch_add(1));
}

void check_name(const char* field, const std::string& name) {
  if (name.size() <= kMaxNameBytes && find_invalid_utf8(name) == std::string::npos) return;
  throw Error(ErrorKind::kInvalidArgument,
              std::string(field) + ": want at most " + std::to_string(kMaxNameBytes) +
                  " bytes of UTF-8, got " + std::to_string(name.size()) + " bytes: '" +
                  escape(name) + "'");
}

void check_positions(std::span<const int64_t> positions, size_t n_ids) {
  int64_t previous = -1;
  for (size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] <= previous || positions[i] >= static_cast<int64_t>(n_ids)) {
      throw Error(ErrorKind::kInvalidArgument,
                  "positions[" + std::to_string(i) + "]: " + std::to_string(positions[i]) +
                      " is outside [" + std::to_string(previous + 1) + ", " +
                      std::to_string(static_cast<int64_t>(n_ids) - 1) +
                      "]; positions ascend and are less than the number of ids, " +
                      std::to_string(n_ids));
    }
    previous = positions[i];
  }
}

}  // namespace

std::shared_ptr<EngineImpl> EngineImpl::create(std::shared_ptr<const Model> model,
                                               std::shared_ptr<const Tokenizer> tokenizer,
                                               std::unique_ptr<Gang> gang,
                                               const EngineOptions& options, EngineInfo info) {
  const int64_t longest = model->context_length();
  if (options.context_length < 0 || options.context_length > longest) {
    throw Error(ErrorKind::kInvalidArgument,
                "context_length: " + std::to_string(options.context_length) + " is outside [1, " +
                    std::to_string(longest) + "], the model's own");
  }
  info.architecture = model->architecture();
  info.context_length = options.context_length > 0 ? options.context_length : longest;
  info.n_threads = gang->n_threads();
  info.n_vocab = model->n_vocab();
  info.n_embd = model->n_embd();
  info.n_layers = model->n_layers();
  info.weight_bytes = model->weight_bytes();
  info.kv_bytes_per_token = model->page_bytes(PageGroup::kFull) / kPageTokens;
  auto mailbox = std::make_shared<Mailbox>();
  auto loop = std::make_unique<EngineLoop>(std::move(model), tokenizer, std::move(gang), mailbox,
                                           options.enable_kv_cache);
  std::shared_ptr<EngineImpl> engine(new EngineImpl(std::move(tokenizer), std::move(loop),
                                                    std::move(mailbox), options, std::move(info)));
  return engine;
}

EngineImpl::EngineImpl(std::shared_ptr<const Tokenizer> tokenizer, std::unique_ptr<EngineLoop> loop,
                       std::shared_ptr<Mailbox> mailbox, EngineOptions options, EngineInfo info)
    : tokenizer_(std::move(tokenizer)),
      mailbox_(std::move(mailbox)),
      options_(std::move(options)),
      info_(std::move(info)),
      loop_(std::move(loop)) {
  try {
    thread_ = std::thread([loop_now = loop_.get()] {
      enter_compute_thread("smallmind-loop");
      loop_now->run();
    });
  } catch (const std::system_error& error) {
    throw Error(ErrorKind::kInference, "THREAD_START_FAILED",
                "the system refused to start the engine's thread (" + error.code().message() + ")");
  }
}

EngineImpl::~EngineImpl() {
  close();  // nothing in a forked child
  if (!fork_guard_.is_forked()) return;
  // The threads that these wait for do not exist in this process.
  fork_guard_.leak_if_forked(mailbox_);
  static_cast<void>(loop_.release());
  static_cast<void>(new std::thread(std::move(thread_)));
}

void EngineImpl::close() {
  if (fork_guard_.is_forked()) return;
  is_closed_.store(true);
  mailbox_->close();
  // Whoever comes second waits here for the first.
  std::call_once(joined_, [this] {
    thread_.join();
    loop_.reset();
  });
}

void EngineImpl::check_usable() const {
  fork_guard_.check();
  if (closed()) throw Error(ErrorKind::kEngineClosed, "the engine was closed");
}

void EngineImpl::check_ids(std::span<const int32_t> ids) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < info_.n_vocab) continue;
    throw Error(ErrorKind::kInvalidArgument,
                "ids[" + std::to_string(i) + "]: " + std::to_string(ids[i]) + " is outside [0, " +
                    std::to_string(info_.n_vocab - 1) + "]");
  }
}

std::shared_ptr<Session> EngineImpl::text_session(const SessionOptions& options) {
  check_usable();
  if (options.max_kv_tokens < 0) {
    throw Error(ErrorKind::kInvalidArgument,
                "max_kv_tokens: " + std::to_string(options.max_kv_tokens) +
                    " is less than 1 (0: the engine's context length)");
  }
  check_name("session id", options.id);
  check_name("cache_salt", options.cache_salt);
  check_name("fairness_key", options.fairness_key);
  SessionOptions settled = options;
  if (settled.id.empty()) settled.id = generated_session_id();
  settled.max_kv_tokens = info_.context_length;
  for (const int64_t limit : {options_.max_kv_tokens, options.max_kv_tokens}) {
    if (limit > 0) settled.max_kv_tokens = std::min(settled.max_kv_tokens, limit);
  }
  auto session = std::make_shared<TextSession>(shared_from_this(), std::move(settled),
                                               next_sequence_key_.fetch_add(1));
  ++n_sessions_;
  return session;
}

void EngineImpl::score(std::span<const int32_t> ids, std::span<const int64_t> positions, float* out,
                       const CallHooks& hooks) {
  check_usable();
  check_ids(ids);
  check_positions(positions, ids.size());
  if (static_cast<int64_t>(ids.size()) > info_.context_length) {
    throw Error(ErrorKind::kContextLength, "score: " + std::to_string(ids.size()) +
                                               " ids do not fit the context of " +
                                               std::to_string(info_.context_length) + " tokens");
  }
  hooks.cancel.check();
  if (positions.empty()) return;
  const auto job =
      std::make_shared<ScoreJob>(std::vector<int32_t>(ids.begin(), ids.end()),
                                 std::vector<int64_t>(positions.begin(), positions.end()), out);
  if (!mailbox_->submit(job)) throw Error(ErrorKind::kEngineClosed, "the engine was closed");
  job->wait(*mailbox_, hooks);
}

EngineStatus EngineImpl::status() const {
  fork_guard_.check();
  EngineStatus status = mailbox_->status();
  status.n_sessions = n_sessions_.load();
  return status;
}

}  // namespace smallmind
