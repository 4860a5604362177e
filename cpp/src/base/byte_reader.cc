#include "base/byte_reader.h"

#include <algorithm>
#include <utility>

#include "base/utf8.h"

namespace smallmind {

ByteReader::ByteReader(const ByteSource& source, uint64_t limit,
                       std::function<void(uint64_t)> on_piece)
    : source_(source), limit_(limit), on_piece_(std::move(on_piece)) {
  piece_.resize(static_cast<size_t>(std::min<uint64_t>(kPieceBytes, source.size())));
}

void ByteReader::require_bytes(uint64_t n_bytes, const char* what) const {
  if (n_bytes > remaining()) {
    fail(ErrorKind::kModelFormat, std::string(what) + " wants " + std::to_string(n_bytes) +
                                      " bytes, the file has " + std::to_string(remaining()) +
                                      " left");
  }
  if (offset() > limit_ || n_bytes > limit_ - offset()) {
    fail(ErrorKind::kModelLimit, std::string(what) + " of " + std::to_string(n_bytes) +
                                     " bytes passes the limit of " + std::to_string(limit_) +
                                     " bytes for the header");
  }
}

void ByteReader::require_items(uint64_t n, uint64_t min_bytes, const char* what) const {
  if (n > remaining() / min_bytes) {
    fail(ErrorKind::kModelFormat, std::string(what) + " " + std::to_string(n) + " wants at least " +
                                      std::to_string(min_bytes) + " bytes each, the file has " +
                                      std::to_string(remaining()) + " left");
  }
}

void ByteReader::refill() {
  piece_offset_ += at_;
  at_ = 0;
  piece_size_ = 0;
  if (on_piece_) on_piece_(piece_offset_);
  // Pieces end at the limit, so that what is inside a piece needs no further check.
  const uint64_t end = std::min(source_.size(), limit_);
  const auto n = static_cast<size_t>(std::min<uint64_t>(piece_.size(), end - piece_offset_));
  source_.read_at(piece_offset_, std::span(piece_).first(n));
  piece_size_ = n;
}

void ByteReader::take_across_pieces(std::span<std::byte> out, const char* what) {
  require_bytes(out.size(), what);
  while (!out.empty()) {
    if (at_ == piece_size_) refill();
    const size_t n = std::min(out.size(), piece_size_ - at_);
    std::memcpy(out.data(), piece_.data() + at_, n);
    at_ += n;
    out = out.subspan(n);
  }
}

void ByteReader::append_across_pieces(std::string& out, uint64_t n_bytes, const char* what) {
  require_bytes(n_bytes, what);
  while (n_bytes > 0) {
    if (at_ == piece_size_) refill();
    const auto n = static_cast<size_t>(std::min<uint64_t>(n_bytes, piece_size_ - at_));
    out.append(reinterpret_cast<const char*>(piece_.data() + at_), n);
    at_ += n;
    n_bytes -= n;
  }
}

void ByteReader::fail(ErrorKind kind, std::string_view detail) const {
  fail_at(offset(), kind, detail);
}

void ByteReader::fail_at(uint64_t byte, ErrorKind kind, std::string_view detail) const {
  std::string message = subject_kind_;
  if (!subject_name_.empty()) message += " '" + escape(subject_name_) + "'";
  message += ": ";
  message += detail;
  message += " (byte " + std::to_string(byte) + ")";
  throw Error(kind, std::move(message));
}

}  // namespace smallmind
