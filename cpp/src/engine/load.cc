// Engine::load: the file becomes an engine in a job of the runtime, while the caller's thread
// reports progress and listens for a cancel.
#include <algorithm>
#include <exception>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "base/compute_thread.h"
#include "base/file.h"
#include "base/gang.h"
#include "base/machine.h"
#include "base/utf8.h"
#include "engine/engine_impl.h"
#include "gguf/reader.h"
#include "model/model.h"
#include "smallmind/engine.h"
#include "smallmind/error.h"
#include "smallmind/runtime.h"

namespace smallmind {
namespace {

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
  const auto ledger = std::make_shared<MemoryLedger>();
  std::shared_ptr<const Tokenizer> tokenizer;
  std::exception_ptr tokenizer_failure;
  CallHooks weights_hooks = hooks;
  weights_hooks.cancel = CancellationToken::linked(std::span(&hooks.cancel, 1));
  std::shared_ptr<const Model> model;
  try {
    const ComputeThread vocabulary("smallmind-vocab", 0, [&] {
      try {
        tokenizer = Tokenizer::from_metadata(header.metadata);
      } catch (...) {
        tokenizer_failure = std::current_exception();
        weights_hooks.cancel.cancel();
      }
    });
    model = load_model(header, *source, options.cache_type, *gang, weights_hooks, ledger);
  } catch (const std::system_error& error) {
    throw Error(ErrorKind::kInference, "THREAD_START_FAILED",
                "the system refused to start a thread to load in (" + error.code().message() + ")");
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
                            std::move(info), ledger);
}

}  // namespace

std::shared_ptr<Engine> Engine::load(const EngineOptions& options, const CallHooks& hooks) {
  checked_n_threads(options.n_threads);
  std::shared_ptr<Engine> engine = Runtime::process().execute(
      [&options](const CallHooks& inner) { return load_here(options, inner); }, hooks);
  hooks.cancel.check();  // a cancel that came last still counts: all or nothing
  return engine;
}

}  // namespace smallmind
