#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/utf8.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

std::string system_message(int code) {
  return escape(std::generic_category().message(code)) + " (errno " + std::to_string(code) + ")";
}

[[noreturn]] void throw_past_end(const std::string& name, uint64_t offset, uint64_t n_bytes,
                                 uint64_t size) {
  throw Error(ErrorKind::kModelIo, name + ": " + std::to_string(n_bytes) + " bytes at byte " +
                                       std::to_string(offset) + " lie past the end at " +
                                       std::to_string(size));
}

// Written as n <= size - offset, which cannot wrap.
bool is_inside(uint64_t offset, uint64_t n_bytes, uint64_t size) {
  return offset <= size && n_bytes <= size - offset;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

class RegularFile final : public ByteSource {
 public:
  RegularFile(Descriptor descriptor, uint64_t size, std::string name)
      : descriptor_(std::move(descriptor)), size_(size), name_(std::move(name)) {}

  uint64_t size() const override { return size_; }

  void read_at(uint64_t offset, std::span<std::byte> out) const override {
    if (!is_inside(offset, out.size(), size_)) throw_past_end(name_, offset, out.size(), size_);
    size_t done = 0;
    while (done < out.size()) {
      const ssize_t n = ::pread(descriptor_.get(), out.data() + done, out.size() - done,
                                static_cast<off_t>(offset + done));
      if (n > 0) {
        done += static_cast<size_t>(n);
      } else if (n == 0) {
        throw Error(ErrorKind::kModelIo,
                    name_ + ": the file became shorter while it was read: " + "nothing at byte " +
                        std::to_string(offset + done) + " of " + std::to_string(size_));
      } else if (errno != EINTR) {
        throw Error(ErrorKind::kModelIo, name_ + ": read at byte " + std::to_string(offset + done) +
                                             ": " + system_message(errno));
      }
    }
  }

 private:
  const Descriptor descriptor_;
  const uint64_t size_;
  const std::string name_;  // escaped, quoted
};

class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint64_t size() const override { return bytes_.size(); }

  void read_at(uint64_t offset, std::span<std::byte> out) const override {
    if (!is_inside(offset, out.size(), bytes_.size())) {
      throw_past_end("memory buffer", offset, out.size(), bytes_.size());
    }
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
  }

 private:
  const std::span<const std::byte> bytes_;
};

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  return "not a regular file";
}

}  // namespace

std::unique_ptr<ByteSource> open_file(const std::string& path) {
  const std::string name = "file '" + escape(path, 200) + "'";
  if (path.find('\0') != std::string::npos) {
    throw Error(ErrorKind::kInvalidArgument, name + ": the path has a NUL inside");
  }
  int fd;
  do {
    // O_NONBLOCK: opening a FIFO without a writer must not wait. It changes nothing for a file.
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    const bool absent = errno == ENOENT || errno == ENOTDIR;
    throw Error(absent ? ErrorKind::kModelNotFound : ErrorKind::kModelIo,
                name + ": " + system_message(errno));
  }
  Descriptor descriptor(fd);
  struct stat status {};
  if (::fstat(fd, &status) != 0) {
    throw Error(ErrorKind::kModelIo, name + ": " + system_message(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorKind::kModelIo,
                name + ": is " + kind_of(status.st_mode) + ", wants a regular file");
  }
  return std::make_unique<RegularFile>(std::move(descriptor), static_cast<uint64_t>(status.st_size),
                                       name);
}

std::unique_ptr<ByteSource> memory_source(std::span<const std::byte> bytes) {
  return std::make_unique<MemorySource>(bytes);
}

}  // namespace smallmind
