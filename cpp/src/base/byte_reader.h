// The only door through which the numbers and strings of an untrusted file come in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/file.h"
#include "smallmind/error.h"

namespace smallmind {

// Reads a source from its start to `limit`, piece by piece, little-endian. Every failure names what
// was being read and the byte where it starts. One thread. The source, and the names given to
// set_subject, must outlive their use.
class ByteReader {
 public:
  // on_piece(offset) is called before each piece is read, at most kPieceBytes apart: the place for
  // progress and cancellation. What it throws leaves the reader's caller. Reading past `limit` is
  // kModelLimit, past the end of the source kModelFormat.
  ByteReader(const ByteSource& source, uint64_t limit, std::function<void(uint64_t)> on_piece);

  static constexpr size_t kPieceBytes = 256 << 10;

  uint64_t offset() const { return piece_offset_ + at_; }
  uint64_t remaining() const { return source_.size() - offset(); }

  // Later failures begin with "kind 'name': " (the name escaped).
  void set_subject(const char* kind, std::string_view name) {
    subject_kind_ = kind;
    subject_name_ = name;
  }

  template <class T>
  T take(const char* what) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    T value;
    take_bytes(std::as_writable_bytes(std::span<T, 1>(&value, 1)), what);
    return value;
  }

  void take_bytes(std::span<std::byte> out, const char* what) {
    if (out.size() > piece_size_ - at_) return take_across_pieces(out, what);
    if (!out.empty()) std::memcpy(out.data(), piece_.data() + at_, out.size());
    at_ += out.size();
  }

  // Appends n bytes to `out`. They are known to exist before anything is allocated.
  void append_to(std::string& out, uint64_t n_bytes, const char* what) {
    if (n_bytes > piece_size_ - at_) return append_across_pieces(out, n_bytes, what);
    out.append(reinterpret_cast<const char*>(piece_.data() + at_), n_bytes);
    at_ += n_bytes;
  }

  // Throws unless n items of at least min_bytes each fit in what is left of the file: the check
  // before every allocation that a count from the file decides.
  void require_items(uint64_t n, uint64_t min_bytes, const char* what) const;

  // Throws unless n_bytes are left before the end of the file and before the limit.
  void require_bytes(uint64_t n_bytes, const char* what) const;

  // "kind 'name': detail (byte 123)": the byte is offset() unless given.
  [[noreturn]] void fail(ErrorKind kind, std::string_view detail) const;
  [[noreturn]] void fail_at(uint64_t byte, ErrorKind kind, std::string_view detail) const;

 private:
  void take_across_pieces(std::span<std::byte> out, const char* what);
  void append_across_pieces(std::string& out, uint64_t n_bytes, const char* what);
  void refill();

  const ByteSource& source_;
  const uint64_t limit_;
  const std::function<void(uint64_t)> on_piece_;
  std::vector<std::byte> piece_;
  uint64_t piece_offset_ = 0;  // of piece_[0] in the source
  size_t piece_size_ = 0;
  size_t at_ = 0;
  const char* subject_kind_ = "file";
  std::string_view subject_name_;
};

}  // namespace smallmind
