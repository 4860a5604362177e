// From generated ids to the text that may be shown: whole characters only, and nothing that may
// turn out to be the beginning of a stop string.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "serving/stop_matcher.h"
#include "tokenizer/stream_decoder.h"

namespace smallmind {

// One request's; one thread at a time. The tokenizer must outlive it.
class TextAssembler {
 public:
  TextAssembler(const Tokenizer& tokenizer, std::span<const std::string> stops)
      : decoder_(tokenizer), matcher_(stops) {}

  struct Piece {
    std::string text;         // final now
    bool is_stopped = false;  // a stop string was found; the text ends before it, for good
  };
  Piece push(int32_t id);
  // What would follow if the generation ended now: text held back, half a character as U+FFFD.
  std::string tail() const;

 private:
  StreamDecoder decoder_;
  StopMatcher matcher_;
  std::string held_;
};

}  // namespace smallmind
