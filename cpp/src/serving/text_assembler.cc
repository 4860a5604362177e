#include "serving/text_assembler.h"

#include <utility>

namespace smallmind {

TextAssembler::Piece TextAssembler::push(int32_t id) {
  for (const char c : decoder_.push(id)) {
    held_.push_back(c);
    const size_t match_bytes = matcher_.feed(static_cast<unsigned char>(c));
    if (match_bytes == 0) continue;
    held_.resize(held_.size() - match_bytes);
    return {std::exchange(held_, {}), true};
  }
  // The held part starts where a stop string would, so between characters.
  const size_t n_final = held_.size() - matcher_.held_bytes();
  Piece piece{held_.substr(0, n_final), false};
  held_.erase(0, n_final);
  return piece;
}

std::string TextAssembler::tail() const {
  StreamDecoder decoder = decoder_;  // the generation may go on: only a copy is flushed
  return held_ + decoder.flush();
}

}  // namespace smallmind
