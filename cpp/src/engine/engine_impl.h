// The Engine behind the interface: checks at the door, the loop's thread, and what sessions need.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "base/fork_guard.h"
#include "base/gang.h"
#include "engine/engine_loop.h"
#include "engine/fair_share.h"
#include "engine/mailbox.h"
#include "model/model.h"
#include "smallmind/engine.h"

namespace smallmind {

// Thread-safe. Sessions and streams share its ownership, so its destructor may run in any thread
// that dropped the last of them, but never in the loop's: nothing that the loop owns owns it.
class EngineImpl : public Engine, public std::enable_shared_from_this<EngineImpl> {
 public:
  // The seam for tests: any model, any tokenizer. info's model figures are taken from the model.
  // What the engine holds is entered in the ledger; null: in one of its own.
  static std::shared_ptr<EngineImpl> create(std::shared_ptr<const Model> model,
                                            std::shared_ptr<const Tokenizer> tokenizer,
                                            std::unique_ptr<Gang> gang,
                                            const EngineOptions& options, EngineInfo info,
                                            std::shared_ptr<MemoryLedger> ledger = nullptr);
  ~EngineImpl() override;
  EngineImpl(const EngineImpl&) = delete;
  EngineImpl& operator=(const EngineImpl&) = delete;

  std::shared_ptr<Session> text_session(const SessionOptions& options) override;
  std::shared_ptr<const Tokenizer> tokenizer() const override { return environment_->tokenizer; }
  void score(std::span<const int32_t> ids, std::span<const int64_t> positions, float* out,
             const CallHooks& hooks) override;
  void close() override;
  bool closed() const override { return is_closed_.load(); }
  EngineInfo info() const override { return info_; }
  EngineStatus status() const override;
  EngineMemory memory() const override;

  // --- For sessions. ---
  // Throws kForkedProcess or kEngineClosed.
  void check_usable() const;
  // Throws kInvalidArgument naming the index of an id out of range.
  void check_ids(std::span<const int32_t> ids) const;
  const std::shared_ptr<Mailbox>& mailbox() const { return mailbox_; }
  const ForkGuard& fork_guard() const { return fork_guard_; }
  const EngineOptions& options() const { return options_; }
  const std::shared_ptr<MemoryLedger>& ledger() const { return ledger_; }
  std::shared_ptr<KeyAccount> account(const std::string& fairness_key) {
    return accounts_.find_or_make(fairness_key);
  }
  // How many of n_wanted tokens after the prompt the KV budget holds, at least 1.
  int64_t fitting_tokens(int64_t n_prompt, int64_t n_wanted) const;
  // Hands a request to the loop. Throws kMemoryBudget when it can never fit, kQueueFull, and
  // kEngineClosed; it is not queued then.
  void submit(const std::shared_ptr<TokenChannel>& channel);
  void note_session_closed() noexcept { --n_sessions_; }

 private:
  EngineImpl(std::shared_ptr<const TaskEnvironment> environment, std::unique_ptr<EngineLoop> loop,
             std::shared_ptr<Mailbox> mailbox, EngineOptions options, const KvGeometry& geometry,
             EngineInfo info, std::shared_ptr<MemoryLedger> ledger);
  void submit(std::shared_ptr<Task> task);
  void check_budget(int64_t n_tokens) const;

  // Constant after construction.
  const ForkGuard fork_guard_;
  const std::shared_ptr<const TaskEnvironment> environment_;
  std::shared_ptr<Mailbox> mailbox_;
  const EngineOptions options_;  // as given
  const KvGeometry geometry_;
  const EngineInfo info_;
  const std::shared_ptr<MemoryLedger> ledger_;
  const MemoryCharge tokenizer_charge_;
  // Shared.
  std::atomic<bool> is_closed_{false};
  std::atomic<int64_t> n_sessions_{0};
  KeyAccounts accounts_;
  // The loop's thread's until it is joined, once.
  std::once_flag joined_;
  std::unique_ptr<EngineLoop> loop_;
  std::thread thread_;
};

}  // namespace smallmind
