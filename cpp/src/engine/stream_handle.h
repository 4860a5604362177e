// The user's end of a stream.
#pragma once

#include <memory>

#include "engine/text_session.h"
#include "engine/token_channel.h"
#include "smallmind/stream.h"

namespace smallmind {

// Thread-safe. Owns the session, and through it the engine, until it is dropped.
class StreamHandle : public Stream {
 public:
  StreamHandle(std::shared_ptr<TextSession> session, std::shared_ptr<TokenChannel> channel)
      : session_(std::move(session)), channel_(std::move(channel)) {}
  ~StreamHandle() override;
  StreamHandle(const StreamHandle&) = delete;
  StreamHandle& operator=(const StreamHandle&) = delete;

  Status next(Token& token, Clock::duration max_wait) override;
  Status wait_end(Clock::duration max_wait) override;
  void attach(std::shared_ptr<Waker> waker, uint64_t key) override;
  void cancel() override;
  void close() override;
  const std::string& session_id() const override { return channel_->session_id(); }
  bool finished() const override;
  GenerationResult result() const override;

 private:
  template <class Call>
  Status settle_after(const Call& call);

  std::shared_ptr<TextSession> session_;
  std::shared_ptr<TokenChannel> channel_;
};

}  // namespace smallmind
