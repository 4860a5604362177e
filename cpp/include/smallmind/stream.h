// The reading end of one generation.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "smallmind/cancellation.h"
#include "smallmind/options.h"

namespace smallmind {

// One eventfd that many streams share: an event loop watches fd() and asks which streams have news.
// Thread-safe.
class Waker {
 public:
  Waker();
  ~Waker();
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;

  int fd() const noexcept;
  // Empties the eventfd and returns the keys of the streams with news since the last call, each
  // once.
  std::vector<uint64_t> take_ready();
  // Called by the engine: note() marks a key; flush() writes the eventfd if anything was marked.
  void note(uint64_t key);
  void flush();

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

// Thread-safe, though only one reader at a time makes sense. Dropping the last handle cancels a
// running generation.
class Stream {
 public:
  enum class Status : unsigned char { kToken, kEnd, kTimedOut };
  virtual ~Stream() = default;

  // Waits at most max_wait (Clock::duration::max(): no limit) for the next token. kToken fills
  // `token`; kEnd: no more will come (finish_reason is known); kTimedOut: nothing yet. A failed
  // request throws its Error (each call again). Cancellation and the deadline wake it at once,
  // whatever the engine is doing.
  virtual Status next(Token& token, Clock::duration max_wait) = 0;
  // Waits for the end without taking tokens: for callers that want the result only. From the first
  // call on no buffer limit holds, and next() gives no more tokens: all are in result().
  virtual Status wait_end(Clock::duration max_wait) = 0;
  // After this, news (a token, the end) marks `key` on the waker; a stream with news already marks
  // at once.
  virtual void attach(std::shared_ptr<Waker> waker, uint64_t key) = 0;

  // Ends the generation (finish_reason cancelled). Tokens already made can still be read.
  // Idempotent, never waits for a step.
  virtual void cancel() = 0;
  // cancel(), drops unread tokens, frees the session; the session keeps the prompt and the tokens
  // that were read.
  virtual void close() = 0;
  virtual const std::string& session_id() const = 0;
  virtual bool finished() const = 0;  // the end was reached: all tokens read, or closed
  // The text and tokens so far; the finish reason counts once finished() (else it is kCancelled).
  virtual GenerationResult result() const = 0;
};

}  // namespace smallmind
