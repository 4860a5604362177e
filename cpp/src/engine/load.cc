// Engine::load: the file becomes an engine in a thread of ours, while the caller's thread reports
// progress and listens for a cancel.
#include <algorithm>
#include <exception>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/file.h"
#include "base/gang.h"
#include "base/machine.h"
#include "base/mutex.h"
#include "base/utf8.h"
#include "engine/engine_impl.h"
#include "gguf/reader.h"
#include "model/model.h"
#include "smallmind/engine.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

constexpr std::chrono::milliseconds kTickInterval{20};

// Joins on every way out.
class JoiningThread {
 public:
  template <class Main>
  explicit JoiningThread(Main main) try : thread_(std::move(main)) {
  } catch (const std::system_error& error) {
    throw Error(ErrorKind::kInference, "THREAD_START_FAILED",
                "the system refused to start a thread to load in (" + error.code().message() + ")");
  }
  ~JoiningThread() { join(); }
  JoiningThread(const JoiningThread&) = delete;
  JoiningThread& operator=(const JoiningThread&) = delete;
  void join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::thread thread_;
};

// What the loading thread has reached. Thread-safe.
class Progress {
 public:
  struct View {
    const char* stage = "header";
    unsigned long long done = 0;
    unsigned long long total = 0;
    bool is_finished = false;
  };
  void report(const char* stage, unsigned long long done, unsigned long long total) {
    MutexLock lock(mutex_);
    view_.stage = stage;
    view_.done = done;
    view_.total = total;
  }
  void finish() {
    MutexLock lock(mutex_);
    view_.is_finished = true;
    news_.notify_all();
  }
  View wait_tick() {
    const Clock::time_point until = Clock::now() + kTickInterval;
    MutexLock lock(mutex_);
    while (!view_.is_finished && Clock::now() < until) news_.wait_until(mutex_, until);
    return view_;
  }

 private:
  Mutex mutex_;
  CondVar news_;
  View view_ GUARDED_BY(mutex_);
};

int checked_n_threads(int n_threads) {
  if (n_threads == 0) return usable_processors();
  if (n_threads < 0 || n_threads > kMaxThreads) {
    throw Error(ErrorKind::kInvalidArgument, "n_threads: " + std::to_string(n_threads) +
                                                 " is outside [1, " + std::to_string(kMaxThreads) +
                                                 "]");
  }
  return n_threads;
}

void check_vocabulary(const Tokenizer& tokenizer, const Model& model) {
  if (tokenizer.n_vocab() == model.n_vocab()) return;
  throw Error(ErrorKind::kModelFormat,
              "key 'tokenizer.ggml.tokens' has " + std::to_string(tokenizer.n_vocab()) +
                  " entries, the model has " + std::to_string(model.n_vocab()));
}

// The vocabulary is built beside the packing of the weights; both only read the header.
std::shared_ptr<EngineImpl> load_here(const EngineOptions& options, const CallHooks& hooks) {
  const std::unique_ptr<ByteSource> source = open_file(options.model_path);
  gguf::Header header = gguf::parse(*source, hooks);
  auto gang = std::make_unique<Gang>(checked_n_threads(options.n_threads));
  std::shared_ptr<const Tokenizer> tokenizer;
  std::exception_ptr tokenizer_failure;
  CallHooks weights_hooks = hooks;
  weights_hooks.cancel = CancellationToken::linked(std::span(&hooks.cancel, 1));
  std::shared_ptr<const Model> model;
  try {
    JoiningThread vocabulary([&] {
      enter_compute_thread("smallmind-vocab");
      try {
        tokenizer = Tokenizer::from_metadata(header.metadata);
      } catch (...) {
        tokenizer_failure = std::current_exception();
        weights_hooks.cancel.cancel();
      }
    });
    model = load_model(header, *source, options.cache_type, *gang, weights_hooks);
  } catch (...) {
    if (tokenizer_failure) std::rethrow_exception(tokenizer_failure);
    throw;
  }
  if (tokenizer_failure) std::rethrow_exception(tokenizer_failure);
  check_vocabulary(*tokenizer, *model);
  EngineInfo info;
  info.model_name = escape(header.metadata.find_string("general.name").value_or(""));
  info.model_path = options.model_path;
  info.isa = active_isa();
  header.metadata.drop_tokenizer_arrays();
  return EngineImpl::create(std::move(model), std::move(tokenizer), std::move(gang), options,
                            std::move(info));
}

}  // namespace

std::shared_ptr<Engine> Engine::load(const EngineOptions& options, const CallHooks& hooks) {
  checked_n_threads(options.n_threads);
  hooks.cancel.check();
  Progress progress;
  std::shared_ptr<EngineImpl> engine;
  std::exception_ptr failure;
  CallHooks inner;
  inner.tick = [&progress](const char* stage, unsigned long long done, unsigned long long total) {
    progress.report(stage, done, total);
  };
  inner.cancel = CancellationToken::linked(std::span(&hooks.cancel, 1));
  JoiningThread loader([&] {
    enter_compute_thread("smallmind-load");
    try {
      engine = load_here(options, inner);
    } catch (...) {
      failure = std::current_exception();
    }
    progress.finish();
  });
  try {
    for (Progress::View seen; !seen.is_finished;) {
      seen = progress.wait_tick();
      if (hooks.tick) hooks.tick(seen.stage, seen.done, seen.total);
    }
  } catch (...) {
    inner.cancel.cancel();
    throw;  // the loader ends within a piece, and is joined on the way out
  }
  loader.join();
  if (failure) std::rethrow_exception(failure);
  hooks.cancel.check();  // a cancel that came last still counts: all or nothing
  return engine;
}

}  // namespace smallmind
