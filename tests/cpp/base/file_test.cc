#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "smallmind/error.h"

namespace smallmind {
namespace {

namespace fs = std::filesystem;

class FileTest : public ::testing::Test {
 protected:
  FileTest() {
    std::string name = (fs::temp_directory_path() / "smallmind-file-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~FileTest() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& bytes) const {
    const fs::path path = folder_ / name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path.string();
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  fs::path folder_;
};

ErrorKind kind_of_opening(const std::string& path) {
  try {
    open_file(path);
  } catch (const Error& error) {
    return error.kind();
  }
  ADD_FAILURE() << path << " opened";
  return ErrorKind::kInference;
}

std::string read(const ByteSource& source, uint64_t offset, size_t n) {
  std::string out(n, '?');
  source.read_at(offset, std::as_writable_bytes(std::span(out)));
  return out;
}

TEST_F(FileTest, ReadsAnyRange) {
  const auto file = open_file(write("a", "0123456789"));
  EXPECT_EQ(file->size(), 10u);
  EXPECT_EQ(read(*file, 0, 10), "0123456789");
  EXPECT_EQ(read(*file, 3, 4), "3456");
  EXPECT_EQ(read(*file, 10, 0), "");
}

TEST_F(FileTest, FileAndMemoryRefuseTheSameRanges) {
  const std::string bytes = "0123456789";
  const auto file = open_file(write("a", bytes));
  const auto memory = memory_source(std::as_bytes(std::span(bytes)));
  for (const ByteSource* source : {file.get(), memory.get()}) {
    for (const uint64_t offset : {uint64_t{10}, uint64_t{11}, ~uint64_t{0}, ~uint64_t{0} - 3}) {
      try {
        read(*source, offset, 4);
        ADD_FAILURE() << offset;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kModelIo);
      }
    }
  }
}

TEST_F(FileTest, AbsentFileIsNotFound) {
  EXPECT_EQ(kind_of_opening(path("nothing")), ErrorKind::kModelNotFound);
  EXPECT_EQ(kind_of_opening(write("a", "x") + "/below"), ErrorKind::kModelNotFound);
  EXPECT_EQ(kind_of_opening(""), ErrorKind::kModelNotFound);
}

// G-70: none of these may block, and each says what it met.
TEST_F(FileTest, WhatIsNotARegularFileIsAnIoError) {
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  EXPECT_EQ(kind_of_opening(path("fifo")), ErrorKind::kModelIo);
  EXPECT_EQ(kind_of_opening(folder_.string()), ErrorKind::kModelIo);
  EXPECT_EQ(kind_of_opening("/dev/zero"), ErrorKind::kModelIo);
  ASSERT_EQ(::symlink("loop", path("loop").c_str()), 0);
  EXPECT_EQ(kind_of_opening(path("loop")), ErrorKind::kModelIo);

  const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path("socket").copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(kind_of_opening(path("socket")), ErrorKind::kModelIo);
  ::close(listener);
}

TEST_F(FileTest, PathWithNulInsideIsRefusedNotCut) {
  const std::string real = write("a", "x");
  EXPECT_EQ(kind_of_opening(real + std::string("\0.gguf", 6)), ErrorKind::kInvalidArgument);
}

// G-71: the path in the message is escaped.
TEST_F(FileTest, MessageHoldsNoRawBytesOfThePath) {
  try {
    open_file(path("\x1b[31mred\n"));
    FAIL();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\x1b'), std::string::npos);
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_NE(message.find("\\x1b[31mred\\n"), std::string::npos);
  }
}

// G-68: a file cut under us is an error, never a signal.
TEST_F(FileTest, FileThatBecomesShorterIsAnIoError) {
  const std::string name = write("a", std::string(100'000, 'x'));
  const auto file = open_file(name);
  ASSERT_EQ(::truncate(name.c_str(), 10), 0);
  EXPECT_EQ(read(*file, 0, 10), "xxxxxxxxxx");
  EXPECT_THROW(read(*file, 0, 11), Error);
  EXPECT_THROW(read(*file, 50'000, 1), Error);
}

// G-69: one descriptor: what the name points to later does not matter.
TEST_F(FileTest, ReplacingTheNameDoesNotChangeWhatIsRead) {
  const std::string name = write("a", "old bytes");
  const auto file = open_file(name);
  fs::rename(write("b", "new"), name);
  EXPECT_EQ(read(*file, 0, 9), "old bytes");
}

std::vector<int> descriptors_of(const std::string& name) {
  std::vector<int> found;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;  // the iterator's own descriptor is gone by then
    if (fs::read_symlink(entry.path(), ignored) == name) {
      found.push_back(std::stoi(entry.path().filename()));
    }
  }
  return found;
}

// Oracle U (e); a child program must not inherit a model's descriptor.
TEST_F(FileTest, HoldsOneDescriptorThatEndsWithItAndAtExec) {
  const std::string name = fs::canonical(write("a", "x"));
  {
    const auto file = open_file(name);
    const auto held = descriptors_of(name);
    ASSERT_EQ(held.size(), 1u);
    EXPECT_EQ(::fcntl(held[0], F_GETFD), FD_CLOEXEC);
  }
  EXPECT_TRUE(descriptors_of(name).empty());
  kind_of_opening(folder_.string());
  EXPECT_TRUE(descriptors_of(folder_.string()).empty());
}

}  // namespace
}  // namespace smallmind
