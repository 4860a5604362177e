// Where bytes come from: a regular file behind one descriptor, or a memory buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace smallmind {

// Thread-safe: read_at keeps no position.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual uint64_t size() const = 0;
  // Fills `out` from `offset`; throws Error(kModelIo) on an I/O error or when the source has become
  // shorter. EINTR is retried.
  virtual void read_at(uint64_t offset, std::span<std::byte> out) const = 0;
};

// Opens a regular file (a FIFO, directory, device or socket is Error(kModelIo), an absent one
// kModelNotFound) without blocking, and looks at its size once.
std::unique_ptr<ByteSource> open_file(const std::string& path);
// The bytes must outlive the source.
std::unique_ptr<ByteSource> memory_source(std::span<const std::byte> bytes);

}  // namespace smallmind
