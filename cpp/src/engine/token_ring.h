// The tokens that wait for their reader.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "smallmind/options.h"

namespace smallmind {

// A first-in, first-out ring that allocates at construction and never again: tokens are moved in
// and out. One thread at a time.
class TokenRing {
 public:
  explicit TokenRing(size_t capacity) : slots_(capacity) {}

  size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  // REQUIRES: size() is less than the capacity.
  void push(Token&& token) noexcept {
    slots_[(first_ + size_) % slots_.size()] = std::move(token);
    ++size_;
  }
  // REQUIRES: not empty.
  Token pop() noexcept {
    Token token = std::move(slots_[first_]);
    first_ = (first_ + 1) % slots_.size();
    --size_;
    return token;
  }
  void clear() noexcept { first_ = size_ = 0; }

 private:
  std::vector<Token> slots_;
  size_t first_ = 0;
  size_t size_ = 0;
};

}  // namespace smallmind
