#include "engine/engine_impl.h"

#include <algorithm>
#include <system_error>
#include <utility>
#include <vector>

#include "base/machine.h"
#include "base/utf8.h"
#include "engine/score_job.h"
#include "engine/task.h"
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

constexpr uint64_t kFreeCacheBytes = 64 << 20;

// The longest sequence, of at most n_tokens, that the budget holds.
int64_t fitting(const KvGeometry& geometry, uint64_t kv_limit, int64_t n_tokens) {
  int64_t fits = 0;
  int64_t too_long = n_tokens + 1;
  while (too_long - fits > 1) {
    const int64_t middle = fits + (too_long - fits) / 2;
    (geometry.bytes_for(middle) <= kv_limit ? fits : too_long) = middle;
  }
  return fits;
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
                                               const EngineOptions& options, EngineInfo info,
                                               std::shared_ptr<MemoryLedger> ledger) {
  if (!ledger) ledger = std::make_shared<MemoryLedger>();
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
  const KvGeometry geometry{
      {model->page_bytes(PageGroup::kFull), model->page_bytes(PageGroup::kWindow)},
      model->window()};
  info.kv_bytes_per_token =
      (geometry.page_bytes[0] + geometry.page_bytes[1]) / static_cast<uint64_t>(kPageTokens);
  info.cache_type = options.cache_type;
  info.kv_limit = options.kv_limit > 0 ? options.kv_limit : usable_memory() / 2;
  if (geometry.bytes_for(kPageTokens) > info.kv_limit) {
    throw Error(ErrorKind::kMemoryBudget, "kv_limit: " + std::to_string(info.kv_limit) +
                                              " bytes hold no sequence; " +
                                              std::to_string(kPageTokens) + " tokens need " +
                                              std::to_string(geometry.bytes_for(kPageTokens)));
  }
  if (options.kv_limit == 0 && options.context_length == 0) {
    info.context_length = fitting(geometry, info.kv_limit, info.context_length);
  }
  auto environment =
      std::make_shared<const TaskEnvironment>(TaskEnvironment{tokenizer, tokenizer->end_ids()});
  auto mailbox = std::make_shared<Mailbox>(options.max_queue_depth, kMaxBatchSequences);
  // A budget that the user gave may be used up by what nobody holds any more; one of our choosing
  // is left to the rest of the process.
  auto loop = std::make_unique<EngineLoop>(
      std::move(model), std::move(gang), mailbox, geometry, info.kv_limit,
      options.kv_limit > 0 ? options.kv_limit : kFreeCacheBytes, ledger);
  return std::shared_ptr<EngineImpl>(new EngineImpl(std::move(environment), std::move(loop),
                                                    std::move(mailbox), options, geometry,
                                                    std::move(info), std::move(ledger)));
}

EngineImpl::EngineImpl(std::shared_ptr<const TaskEnvironment> environment,
                       std::unique_ptr<EngineLoop> loop, std::shared_ptr<Mailbox> mailbox,
                       EngineOptions options, const KvGeometry& geometry, EngineInfo info,
                       std::shared_ptr<MemoryLedger> ledger)
    : environment_(std::move(environment)),
      mailbox_(std::move(mailbox)),
      options_(std::move(options)),
      geometry_(geometry),
      info_(std::move(info)),
      ledger_(std::move(ledger)),
      tokenizer_charge_(ledger_, MemoryCategory::kTokenizer,
                        environment_->tokenizer->memory_bytes()),
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
  auto session = std::make_shared<TextSession>(shared_from_this(), std::move(settled));
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
  check_budget(positions.back() + 1);
  const auto job =
      std::make_shared<ScoreJob>(std::vector<int32_t>(ids.begin(), ids.end()),
                                 std::vector<int64_t>(positions.begin(), positions.end()), out);
  submit(std::make_shared<ScoreTask>(job, account({}), ledger_));
  job->wait(*mailbox_, hooks);
}

int64_t EngineImpl::fitting_tokens(int64_t n_prompt, int64_t n_wanted) const {
  const int64_t n_fitting = fitting(geometry_, info_.kv_limit, n_prompt + n_wanted);
  return std::max<int64_t>(1, n_fitting - n_prompt);
}

void EngineImpl::check_budget(int64_t n_tokens) const {
  const uint64_t needed = geometry_.bytes_for(n_tokens);
  if (needed <= info_.kv_limit) return;
  throw Error(ErrorKind::kMemoryBudget, "kv_limit: a sequence of " + std::to_string(n_tokens) +
                                            " tokens needs " + std::to_string(needed) +
                                            " bytes of KV, the engine has " +
                                            std::to_string(info_.kv_limit));
}

void EngineImpl::submit(const std::shared_ptr<TokenChannel>& channel) {
  const RequestSpec& spec = channel->spec();
  check_budget(static_cast<int64_t>(spec.context.size()) + spec.max_tokens);
  submit(std::make_shared<GenerationTask>(channel, environment_));
}

void EngineImpl::submit(std::shared_ptr<Task> task) {
  switch (mailbox_->submit(std::move(task))) {
    case Mailbox::Outcome::kTaken:
      return;
    case Mailbox::Outcome::kClosed:
      throw Error(ErrorKind::kEngineClosed, "the engine was closed");
    case Mailbox::Outcome::kFull:
      throw Error(ErrorKind::kQueueFull,
                  "max_queue_depth: " + std::to_string(options_.max_queue_depth) +
                      " requests wait already");
  }
}

EngineStatus EngineImpl::status() const {
  fork_guard_.check();
  EngineStatus status = mailbox_->figures().status;
  status.n_sessions = n_sessions_.load();
  return status;
}

EngineMemory EngineImpl::memory() const {
  fork_guard_.check();
  const MemoryLedger::Snapshot held = ledger_->snapshot();
  const auto bytes_of = [&](MemoryCategory category) {
    return static_cast<uint64_t>(std::max<int64_t>(0, held.bytes_of(category)));
  };
  const LoopFigures figures = mailbox_->figures();
  EngineMemory memory;
  memory.weights = bytes_of(MemoryCategory::kWeights);
  memory.kv = bytes_of(MemoryCategory::kKv);
  memory.kv_in_use = figures.kv_held_bytes;
  memory.kv_cached = figures.kv_cached_bytes;
  memory.kv_limit = info_.kv_limit;
  memory.workspace = bytes_of(MemoryCategory::kWorkspace);
  memory.tokenizer = bytes_of(MemoryCategory::kTokenizer);
  memory.requests = bytes_of(MemoryCategory::kRequests);
  memory.total = memory.weights + memory.kv + memory.workspace + memory.tokenizer + memory.requests;
  memory.peak = std::max(memory.total, static_cast<uint64_t>(held.peak_live));
  return memory;
}

}  // namespace smallmind
