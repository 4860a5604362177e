#include "base/byte_reader.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace smallmind {
namespace {

constexpr uint64_t kNoLimit = ~uint64_t{0};

std::string message_of(const std::function<void()>& call, ErrorKind kind) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

std::string counting_bytes(size_t n) {
  std::string bytes(n, '\0');
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<char>(i * 2654435761u >> 13);
  return bytes;
}

TEST(ByteReaderTest, TakesLittleEndianNumbers) {
  const std::string bytes("\x01\x02\x03\x04\x05\x06\x07\x08\xFF", 9);
  const auto source = memory_source(std::as_bytes(std::span(bytes)));
  ByteReader reader(*source, kNoLimit, nullptr);
  EXPECT_EQ(reader.take<uint32_t>("a"), 0x04030201u);
  EXPECT_EQ(reader.take<uint16_t>("b"), 0x0605u);
  EXPECT_EQ(reader.take<uint16_t>("c"), 0x0807u);
  EXPECT_EQ(reader.take<int8_t>("d"), -1);
  EXPECT_EQ(reader.remaining(), 0u);
}

// Items that lie across the pieces in which the source is read.
TEST(ByteReaderTest, JoinsWhatLiesAcrossPieces) {
  const std::string bytes = counting_bytes(3 * ByteReader::kPieceBytes + 17);
  const auto source = memory_source(std::as_bytes(std::span(bytes)));
  for (const size_t step : {size_t{7}, size_t{4096 + 1}, ByteReader::kPieceBytes + 3}) {
    ByteReader reader(*source, kNoLimit, nullptr);
    std::string all;
    while (reader.remaining() > 0) {
      const size_t n = std::min<uint64_t>(step, reader.remaining());
      if (all.size() % 2 == 0) {
        reader.append_to(all, n, "text");
      } else {
        std::vector<std::byte> part(n);
        reader.take_bytes(part, "bytes");
        all.append(reinterpret_cast<const char*>(part.data()), n);
      }
      ASSERT_EQ(reader.offset(), all.size());
    }
    EXPECT_EQ(all, bytes);
  }
}

TEST(ByteReaderTest, NamesFieldByteAndSizesWhenTheFileEnds) {
  const std::string bytes = "0123456789";
  const auto source = memory_source(std::as_bytes(std::span(bytes)));
  ByteReader reader(*source, kNoLimit, nullptr);
  reader.set_subject("key", "a\x1b");
  reader.take<uint64_t>("length");
  EXPECT_EQ(message_of([&] { reader.take<uint32_t>("value"); }, ErrorKind::kModelFormat),
            "key 'a\\x1b': value wants 4 bytes, the file has 2 left (byte 8)");
}

// G-08, G-16: the length is compared with what is left before anything is allocated.
TEST(ByteReaderTest, HugeLengthIsRefusedWithoutAllocating) {
  const std::string bytes = "0123456789";
  const auto source = memory_source(std::as_bytes(std::span(bytes)));
  for (const uint64_t n : {uint64_t{11}, uint64_t{1} << 30, uint64_t{1} << 63, kNoLimit}) {
    ByteReader reader(*source, kNoLimit, nullptr);
    std::string out;
    message_of([&] { reader.append_to(out, n, "string"); }, ErrorKind::kModelFormat);
    EXPECT_EQ(out.capacity(), std::string().capacity());
    message_of([&] { reader.require_items(n, 8, "count"); }, ErrorKind::kModelFormat);
  }
}

TEST(ByteReaderTest, StopsAtTheLimitToTheByte) {
  const std::string bytes = counting_bytes(100);
  const auto source = memory_source(std::as_bytes(std::span(bytes)));
  ByteReader reader(*source, 50, nullptr);
  std::string out;
  reader.append_to(out, 50, "head");
  message_of([&] { reader.take<uint8_t>("next"); }, ErrorKind::kModelLimit);
  ByteReader second(*source, 50, nullptr);
  message_of([&] { second.append_to(out, 51, "head"); }, ErrorKind::kModelLimit);
}

TEST(ByteReaderTest, ReportsEveryPieceAndPassesOnWhatTheReportThrows) {
  const std::string bytes = counting_bytes(4 * ByteReader::kPieceBytes);
  const auto source = memory_source(std::as_bytes(std::span(bytes)));
  std::vector<uint64_t> seen;
  const auto on_piece = [&](uint64_t done) {
    if (seen.size() == 3) throw Error(ErrorKind::kCancelled, "stop");
    seen.push_back(done);
  };
  ByteReader reader(*source, kNoLimit, on_piece);
  std::string out;
  message_of([&] { reader.append_to(out, bytes.size(), "all"); }, ErrorKind::kCancelled);
  EXPECT_EQ(seen, (std::vector<uint64_t>{0, ByteReader::kPieceBytes, 2 * ByteReader::kPieceBytes}));
}

TEST(ByteReaderTest, EmptySourceHasNothing) {
  const auto source = memory_source({});
  ByteReader reader(*source, kNoLimit, nullptr);
  std::string out;
  reader.append_to(out, 0, "nothing");
  message_of([&] { reader.take<uint8_t>("x"); }, ErrorKind::kModelFormat);
}

}  // namespace
}  // namespace smallmind
