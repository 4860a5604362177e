// Exhaustive damage to a small file: every truncation, every flipped bit, every failing read.
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <string>

#include "gguf_bytes.h"

namespace {

// Live and greatest bytes from operator new, for the memory bound of oracle U (c).
std::atomic<size_t> g_live{0};
std::atomic<size_t> g_peak{0};

void* allocate(size_t n) noexcept {
  void* block = std::malloc(n == 0 ? 1 : n);
  if (block == nullptr) return nullptr;
  const size_t size = ::malloc_usable_size(block);
  const size_t live = g_live.fetch_add(size) + size;
  size_t peak = g_peak.load();
  while (live > peak && !g_peak.compare_exchange_weak(peak, live)) {
  }
  return block;
}

void release(void* block) noexcept {
  if (block == nullptr) return;
  g_live.fetch_sub(::malloc_usable_size(block));
  std::free(block);
}

void* allocate_or_throw(size_t n) {
  void* block = allocate(n);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

}  // namespace

// All of them: sanitizers replace each one that is left out.
void* operator new(size_t n) { return allocate_or_throw(n); }
void* operator new[](size_t n) { return allocate_or_throw(n); }
void* operator new(size_t n, const std::nothrow_t&) noexcept { return allocate(n); }
void* operator new[](size_t n, const std::nothrow_t&) noexcept { return allocate(n); }
void operator delete(void* block) noexcept { release(block); }
void operator delete[](void* block) noexcept { release(block); }
void operator delete(void* block, size_t) noexcept { release(block); }
void operator delete[](void* block, size_t) noexcept { release(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { release(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { release(block); }

namespace smallmind::gguf {
namespace {

size_t peak_during(const std::function<void()>& call) {
  const size_t before = g_live.load();
  g_peak.store(before);
  call();
  return g_peak.load() - before;
}

// True when it parses; anything but an Error fails the test.
bool parses(std::string_view bytes, std::string& message) {
  try {
    parse_bytes(bytes);
    return true;
  } catch (const Error& error) {
    message = error.what();
    return false;
  }
}

// Parsing may take a piece of the file, the parsed header and, before a wrong count shows itself,
// what as many of the shortest entries as the file could hold would take.
size_t memory_bound(size_t file_bytes) { return 16 * file_bytes + (32 << 10); }

size_t header_bytes(const std::string& bytes) { return parse_bytes(bytes).data_offset; }

// G-02; the readers of files and of memory agree.
TEST(DamageTest, EveryTruncationIsRefusedWithTheSameMessageByBothReaders) {
  const std::string whole = complete_file();
  const auto path = std::filesystem::temp_directory_path() /
                    ("smallmind-damage-" + std::to_string(::getpid()) + ".bin");
  std::ofstream(path, std::ios::binary) << whole;
  for (size_t n = whole.size(); n-- > 0;) {
    ASSERT_EQ(::truncate(path.c_str(), static_cast<off_t>(n)), 0);
    const Failure memory = failure_of_parsing(std::string_view(whole).substr(0, n));
    EXPECT_EQ(memory.kind, ErrorKind::kModelFormat) << n;
    EXPECT_TRUE(contains(memory, "byte")) << memory.message;
    const auto file = open_file(path.string());
    EXPECT_EQ(failure_of([&] { parse(*file); }).message, memory.message) << n;
  }
  std::filesystem::remove(path);
}

// G-76: afterwards the good file still parses, and no flip asked for memory that the file does not
// justify.
TEST(DamageTest, EveryFlippedBitGivesAnErrorOrAFile) {
  std::string bytes = complete_file();
  const size_t n_header = header_bytes(bytes);
  size_t n_refused = 0;
  for (size_t bit = 0; bit < n_header * 8; ++bit) {
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    std::string message;
    bool parsed = false;
    const size_t peak = peak_during([&] { parsed = parses(bytes, message); });
    ASSERT_LE(peak, memory_bound(bytes.size())) << "bit " << bit;
    if (!parsed) {
      ++n_refused;
      for (const char c : message) ASSERT_TRUE(c >= 0x20 && c < 0x7F) << "bit " << bit;
      ASSERT_LT(message.size(), 400u);
    }
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
  }
  // Flips in values, in names and in the padding give another good file; those in the magic, in
  // counts, lengths, types and offsets do not.
  EXPECT_GT(n_refused, n_header * 8 / 3);
  EXPECT_EQ(parse_bytes(bytes).tensors.size(), 3u);
}

// G-76: every byte to its extreme values.
TEST(DamageTest, EveryByteAtItsExtremesGivesAnErrorOrAFile) {
  std::string bytes = complete_file();
  for (size_t i = 0; i < header_bytes(complete_file()); ++i) {
    const char good = bytes[i];
    for (const char bad : {'\x00', '\x7F', '\x80', '\xFF'}) {
      bytes[i] = bad;
      std::string message;
      const size_t peak = peak_during([&] { parses(bytes, message); });
      ASSERT_LE(peak, memory_bound(bytes.size())) << "byte " << i;
    }
    bytes[i] = good;
  }
}

// G-76: havoc with a fixed seed: several bytes at once, pieces removed and doubled.
TEST(DamageTest, HavocGivesAnErrorOrAFile) {
  const std::string good = complete_file();
  uint64_t state = 1;
  const auto random = [&](uint64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % n;
  };
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = good;
    for (uint64_t edits = 1 + random(4); edits > 0; --edits) {
      const size_t at = random(bytes.size());
      switch (random(4)) {
        case 0:
          bytes[at] = static_cast<char>(random(256));
          break;
        case 1:
          bytes.erase(at, random(16));
          break;
        case 2:
          bytes.insert(at, bytes.substr(random(bytes.size()), random(64)));
          break;
        default:
          bytes.replace(at, 8, bytes_of(~uint64_t{0} >> random(64)));
      }
      if (bytes.empty()) break;
    }
    std::string message;
    const size_t peak = peak_during([&] { parses(bytes, message); });
    ASSERT_LE(peak, memory_bound(bytes.size())) << "round " << round;
  }
}

// Fails with an I/O error from the k-th read on, or only there.
class FailingSource final : public ByteSource {
 public:
  FailingSource(const ByteSource& source, int fail_at, bool for_ever)
      : source_(source), fail_at_(fail_at), for_ever_(for_ever) {}
  uint64_t size() const override { return source_.size(); }
  void read_at(uint64_t offset, std::span<std::byte> out) const override {
    const int index = n_reads_++;
    if (index == fail_at_ || (for_ever_ && index > fail_at_)) {
      throw Error(ErrorKind::kModelIo, "planted failure");
    }
    source_.read_at(offset, out);
  }
  int n_reads() const { return n_reads_; }

 private:
  const ByteSource& source_;
  const int fail_at_;
  const bool for_ever_;
  mutable std::atomic<int> n_reads_{0};
};

// G-73 (the reader's part): each read in turn fails; the error comes through and nothing is left.
TEST(DamageTest, EveryFailingReadIsAnIoError) {
  const size_t n = 1 << 18;
  const std::string bytes =
      with_data(header(1, 2) + array_entry("a", 10, n, std::string(8 * n, '\x05')) +
                    array_entry("b", 8, 3,
                                string_bytes(std::string(1 << 20, 'x')) +
                                    string_bytes(std::string(1 << 20, 'y')) + string_bytes("z")) +
                    tensor("t", {8}, 0, 0),
                32);
  const auto memory = memory_source(std::as_bytes(std::span(bytes)));
  const FailingSource counting(*memory, -1, false);
  parse(counting);
  ASSERT_GT(counting.n_reads(), 10);
  const size_t live = g_live.load();
  for (int k = 0; k < counting.n_reads(); ++k) {
    for (const bool for_ever : {false, true}) {
      const FailingSource failing(*memory, k, for_ever);
      EXPECT_EQ(failure_of([&] { parse(failing); }).kind, ErrorKind::kModelIo) << k;
    }
  }
  EXPECT_EQ(g_live.load(), live);
}

// Oracle U (c), on a header of 40 MiB that is nearly all vocabulary.
TEST(DamageTest, MemoryOfALongHeaderStaysWithinTwiceTheFile) {
  const uint64_t n = 1 << 20;
  std::string elements;
  for (uint64_t i = 0; i < n; ++i)
    elements += string_bytes("token-of-some-length-" + std::to_string(i));
  const std::string bytes = header(0, 1) + array_entry("tokenizer.ggml.tokens", 8, n, elements);
  const size_t peak = peak_during([&] { parse_bytes(bytes); });
  EXPECT_LE(peak, 2 * bytes.size() + (1 << 20));
}

// A terabyte of zeros but for two entries, each an array of 2^24 f64.
class HugeSource final : public ByteSource {
 public:
  uint64_t size() const override { return uint64_t{1} << 40; }
  void read_at(uint64_t offset, std::span<std::byte> out) const override {
    std::fill(out.begin(), out.end(), std::byte{0});
    overlay(0, first_, offset, out);
    overlay(first_.size() + (uint64_t{8} << 24), second_, offset, out);
  }

 private:
  static void overlay(uint64_t at, const std::string& bytes, uint64_t offset,
                      std::span<std::byte> out) {
    for (uint64_t i = 0; i < bytes.size(); ++i) {
      if (at + i >= offset && at + i - offset < out.size()) {
        out[at + i - offset] = static_cast<std::byte>(bytes[i]);
      }
    }
  }

  const std::string array_ = bytes_of<uint32_t>(12) + bytes_of<uint64_t>(1 << 24);
  const std::string first_ = header(0, 3) + entry("a", 9, array_);
  const std::string second_ = entry("b", 9, array_);
};

// Section 6: the header has a limit of its own, whatever the size of the file; the array that would
// pass it is not allocated.
TEST(DamageTest, HeaderPastItsLimitIsALimitError) {
  const HugeSource source;
  Failure failure{};
  const size_t peak = peak_during([&] { failure = failure_of([&] { parse(source); }); });
  EXPECT_EQ(failure.kind, ErrorKind::kModelLimit);
  EXPECT_TRUE(contains(failure, "key 'b': array")) << failure.message;
  EXPECT_LE(peak, size_t{130} << 20);
}

}  // namespace
}  // namespace smallmind::gguf
