// Metadata entries: good ones through the typed accessors, and every way in which they can be
// wrong.
#include "gguf/metadata.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gguf_bytes.h"

namespace smallmind::gguf {
namespace {

constexpr uint64_t kMax = ~uint64_t{0};

Failure failure_of_entries(uint64_t n_kv, const std::string& entries) {
  return failure_of_parsing(header(0, n_kv) + entries);
}

template <class Span>
auto as_vector(const Span& span) {
  return std::vector(span.begin(), span.end());
}

TEST(MetadataTest, GivesEveryTypeThroughItsAccessor) {
  const Header file = parse_bytes(complete_file());
  const Metadata& metadata = file.metadata;
  EXPECT_TRUE(metadata.has("a.u8"));
  EXPECT_FALSE(metadata.has("a"));
  EXPECT_FALSE(metadata.has(""));
  EXPECT_EQ(metadata.find_u32("a.u32"), 4'000'000'000u);
  EXPECT_EQ(metadata.find_f32("a.f32"), 0.5f);
  EXPECT_EQ(metadata.find_bool("a.bool"), true);
  EXPECT_EQ(metadata.find_string("a.str"), "caf\xC3\xA9");
  EXPECT_EQ(as_vector(*metadata.find_i32_array("b.i32")), (std::vector<int32_t>{7, 8}));
  EXPECT_EQ(as_vector(*metadata.find_u32_array("b.u32")), (std::vector<uint32_t>{9, 10}));
  EXPECT_EQ(as_vector(*metadata.find_f32_array("b.f32")), (std::vector<float>{1.5f, -2.5f}));
  EXPECT_EQ(as_vector(*metadata.find_bool_array("b.bool")), (std::vector<uint8_t>{1, 0, 1}));
  const auto tokens = metadata.find_strings("tokenizer.ggml.tokens");
  ASSERT_EQ(tokens->size(), 3u);
  EXPECT_EQ((*tokens)[0], "a");
  EXPECT_EQ((*tokens)[1], "");
  EXPECT_EQ((*tokens)[2], "\xFF\xFE");
}

TEST(MetadataTest, AbsentKeyIsNothingOrNamedWhenRequired) {
  const Metadata metadata;
  EXPECT_EQ(metadata.find_u32("k"), std::nullopt);
  EXPECT_EQ(metadata.find_f32("k"), std::nullopt);
  EXPECT_EQ(metadata.find_bool("k"), std::nullopt);
  EXPECT_EQ(metadata.find_string("k"), std::nullopt);
  EXPECT_FALSE(metadata.find_strings("k").has_value());
  EXPECT_FALSE(metadata.find_f32_array("k").has_value());
  EXPECT_FALSE(metadata.find_i32_array("k").has_value());
  EXPECT_FALSE(metadata.find_u32_array("k").has_value());
  EXPECT_FALSE(metadata.find_bool_array("k").has_value());
  EXPECT_TRUE(contains(failure_of([&] { metadata.require_u32("k"); }), "'k': is missing"));
  EXPECT_TRUE(contains(failure_of([&] { metadata.require_f32("k"); }), "'k': is missing"));
  EXPECT_TRUE(contains(failure_of([&] { metadata.require_string("k"); }), "'k': is missing"));
}

// G-14, G-20: every accessor on every type of value, but its own, says what it wants and has.
TEST(MetadataTest, WrongTypeNamesBothTypes) {
  const Header file = parse_bytes(complete_file());
  const Metadata& m = file.metadata;
  const std::vector<std::pair<std::string, std::string>> values = {
      {"a.u8", "u8"},
      {"a.i8", "i8"},
      {"a.u16", "u16"},
      {"a.i16", "i16"},
      {"a.u32", "u32"},
      {"a.i32", "i32"},
      {"a.f32", "f32"},
      {"a.bool", "bool"},
      {"a.str", "str"},
      {"a.u64", "u64"},
      {"a.i64", "i64"},
      {"a.f64", "f64"},
      {"b.u8", "array[u8]"},
      {"b.i32", "array[i32]"},
      {"b.u32", "array[u32]"},
      {"b.f32", "array[f32]"},
      {"b.bool", "array[bool]"},
      {"tokenizer.ggml.tokens", "array[str]"}};
  const std::vector<std::pair<std::string, std::function<void(const std::string&)>>> accessors = {
      {"u32", [&](const std::string& key) { m.find_u32(key); }},
      {"f32", [&](const std::string& key) { m.find_f32(key); }},
      {"bool", [&](const std::string& key) { m.find_bool(key); }},
      {"str", [&](const std::string& key) { m.find_string(key); }},
      {"array[str]", [&](const std::string& key) { m.find_strings(key); }},
      {"array[f32]", [&](const std::string& key) { m.find_f32_array(key); }},
      {"array[i32]", [&](const std::string& key) { m.find_i32_array(key); }},
      {"array[u32]", [&](const std::string& key) { m.find_u32_array(key); }},
      {"array[bool]", [&](const std::string& key) { m.find_bool_array(key); }}};
  for (const auto& [wanted, access] : accessors) {
    for (const auto& [key, type] : values) {
      const bool is_lossless = wanted == "array[u32]" && type == "array[i32]";
      if (wanted == type || is_lossless) {
        EXPECT_NO_THROW(access(key)) << key;
        continue;
      }
      const Failure failure = failure_of([&] { access(key); });
      EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
      EXPECT_EQ(failure.message, "key '" + key + "': wants " + wanted + ", has " + type);
    }
  }
}

TEST(MetadataTest, SignedCountsAreReadAsUnsignedOnlyWithoutNegatives) {
  const Header file = parse_bytes(complete_file());
  EXPECT_EQ(as_vector(*file.metadata.find_u32_array("b.i32")), (std::vector<uint32_t>{7, 8}));
  const Failure failure = failure_of([&] { file.metadata.find_u32_array("b.neg"); });
  EXPECT_TRUE(contains(failure, "'b.neg': wants array[u32], has -8 at index 1")) << failure.message;
}

// G-22
TEST(MetadataTest, FloatsThatAreNotFiniteAreRefused) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float value : {std::nanf(""), inf, -inf}) {
    const Header file = parse_bytes(header(0, 1) + entry("eps", 6, bytes_of(value)));
    const Failure failure = failure_of([&] { file.metadata.find_f32("eps"); });
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(failure, "'eps'")) << failure.message;
  }
}

// G-08, G-16: lengths at every edge, of keys and of string values.
TEST(MetadataTest, StringLengthsPastTheFileAreRefused) {
  for (const uint64_t n :
       {kMax, kMax - 7, uint64_t{1} << 63, uint64_t{1} << 32, uint64_t{1} << 30, uint64_t{21}}) {
    const Failure key = failure_of_entries(1, bytes_of(n) + std::string(20, 'k'));
    EXPECT_EQ(key.kind, ErrorKind::kModelFormat) << n;
    EXPECT_TRUE(contains(key, "key length")) << key.message;
    const Failure value =
        failure_of_entries(1, entry("general.name", 8, bytes_of(n) + std::string(20, 'v')));
    EXPECT_EQ(value.kind, ErrorKind::kModelFormat) << n;
    EXPECT_TRUE(contains(value, "key 'general.name': string")) << value.message;
  }
}

// G-09, G-12
TEST(MetadataTest, KeysAreUtf8WithoutControlCharacters) {
  const std::vector<std::string> bad = {"",
                                        std::string("a\0b", 3),
                                        "a\x1b[31m",
                                        "a\nb",
                                        "\x7f",
                                        "\xC2\x85",
                                        "\xFF",
                                        "caf\xC3",
                                        "\xED\xA0\x80",
                                        std::string(65'536, 'k')};
  for (const std::string& key : bad) {
    const Failure failure = failure_of_entries(1, u32_entry(key, 1) + std::string(16, '\0'));
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat) << failure.message;
    EXPECT_TRUE(contains(failure, "key")) << failure.message;
    EXPECT_TRUE(contains(failure, "(byte 24)")) << failure.message;
    EXPECT_LT(failure.message.size(), 200u);
  }
  const std::string longest(65'535, 'k');
  EXPECT_TRUE(parse_bytes(header(0, 1) + u32_entry(longest, 1)).metadata.has(longest));
  EXPECT_TRUE(
      parse_bytes(header(0, 1) + u32_entry("sch\xC3\xB6n", 1)).metadata.has("sch\xC3\xB6n"));
}

// G-10
TEST(MetadataTest, DuplicateKeyIsRefused) {
  for (const char* key : {"general.architecture", "general.alignment", "tokenizer.chat_template"}) {
    const std::string entries =
        string_entry(key, "one") + string_entry("between", "x") + string_entry(key, "one");
    const Failure failure = failure_of_entries(3, entries);
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(failure, "key '" + std::string(key) + "' is given twice"));
  }
}

// G-13
TEST(MetadataTest, UnknownValueTypeIsRefused) {
  for (const uint32_t type : {13u, 14u, 255u, 1u << 31, ~0u}) {
    const Failure scalar = failure_of_entries(1, entry("k", type, std::string(64, '\0')));
    EXPECT_EQ(scalar.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(scalar, "key 'k': value type " + std::to_string(type)));
    const Failure element =
        failure_of_entries(1, array_entry("k", type, uint64_t{1} << 60, std::string(64, '\0')));
    EXPECT_EQ(element.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(element, "element type " + std::to_string(type)));
  }
}

// G-15
TEST(MetadataTest, BoolIsZeroOrOne) {
  for (const uint8_t value : {uint8_t{2}, uint8_t{128}, uint8_t{255}}) {
    const Failure scalar = failure_of_entries(1, entry("k", 7, bytes_of(value)) + "xx");
    EXPECT_EQ(scalar.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(scalar, "key 'k'")) << scalar.message;
    const Failure element =
        failure_of_entries(1, array_entry("k", 7, 2, std::string(1, '\1') + bytes_of(value)));
    EXPECT_EQ(element.kind, ErrorKind::kModelFormat);
    EXPECT_TRUE(contains(element, "key 'k'")) << element.message;
  }
}

// G-17
TEST(MetadataTest, ArrayLengthsThatWrapOrPassTheFileAreRefused) {
  const uint32_t sizes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
  for (uint32_t type = 0; type <= 12; ++type) {
    if (type == 9) continue;
    for (const uint64_t n :
         {kMax, kMax / sizes[type], (uint64_t{1} << 62) + 1, (uint64_t{1} << 61) + 1,
          uint64_t{1} << 32, uint64_t{64} / sizes[type] + 1}) {
      const Failure failure =
          failure_of_entries(1, array_entry("k", type, n, std::string(64, '\0')));
      EXPECT_EQ(failure.kind, ErrorKind::kModelFormat) << failure.message;
      EXPECT_TRUE(contains(failure, "key 'k'")) << failure.message;
      EXPECT_TRUE(contains(failure, "array length " + std::to_string(n))) << failure.message;
    }
  }
}

// Section 6: arrays of at most 2^24 elements.
TEST(MetadataTest, ArrayLongerThanTheLimitIsALimitError) {
  const uint64_t n = kMaxArrayLength + 1;
  const Failure failure = failure_of_entries(1, array_entry("k", 0, n, std::string(n, '\0')));
  EXPECT_EQ(failure.kind, ErrorKind::kModelLimit);
  EXPECT_TRUE(contains(failure, "array length 16777217")) << failure.message;
}

// G-18
TEST(MetadataTest, ArrayCutInsideAnElementIsRefused) {
  const std::string numbers = array_entry("k", 10, 3, std::string(24, '\x01'));
  const std::string strings =
      array_entry("k", 8, 3, string_bytes("abc") + string_bytes("de") + string_bytes("fghi"));
  for (const std::string& whole : {numbers, strings}) {
    EXPECT_NO_THROW(parse_bytes(header(0, 1) + whole));
    for (size_t n = 0; n < whole.size(); ++n) {
      EXPECT_EQ(failure_of_entries(1, whole.substr(0, n)).kind, ErrorKind::kModelFormat) << n;
    }
  }
}

// G-19: no recursion, whatever the depth.
TEST(MetadataTest, ArrayOfArraysIsUnsupported) {
  std::string nested;
  for (int depth = 0; depth < 100'000; ++depth)
    nested += bytes_of<uint32_t>(9) + bytes_of<uint64_t>(1);
  const Failure failure = failure_of_entries(1, entry("k", 9, nested));
  EXPECT_EQ(failure.kind, ErrorKind::kUnsupportedModel);
  EXPECT_TRUE(contains(failure, "key 'k'")) << failure.message;
}

// G-16, G-38, G-41, G-49: each kind of string has its limit.
TEST(MetadataTest, StringsLongerThanTheirLimitAreLimitErrors) {
  const auto in_array = [](const char* key, uint64_t n) {
    return array_entry(key, 8, 1, string_bytes(std::string(n, 'x')));
  };
  const auto scalar = [](const char* key, uint64_t n) {
    return string_entry(key, std::string(n, 'x'));
  };
  const std::vector<std::pair<std::string, std::string>> fitting_and_not = {
      {scalar("k", 1 << 20), scalar("k", (1 << 20) + 1)},
      {in_array("k", 1 << 20), in_array("k", (1 << 20) + 1)},
      {scalar("tokenizer.chat_template", 256 << 10),
       scalar("tokenizer.chat_template", (256 << 10) + 1)},
      {scalar("tokenizer.chat_template.tool_use", 256 << 10),
       scalar("tokenizer.chat_template.tool_use", (256 << 10) + 1)},
      {in_array("tokenizer.ggml.tokens", 4096), in_array("tokenizer.ggml.tokens", 4097)},
      {in_array("tokenizer.ggml.merges", 8193), in_array("tokenizer.ggml.merges", 8194)}};
  for (const auto& [fitting, too_long] : fitting_and_not) {
    EXPECT_NO_THROW(parse_bytes(header(0, 1) + fitting));
    const Failure failure = failure_of_entries(1, too_long);
    EXPECT_EQ(failure.kind, ErrorKind::kModelLimit);
    EXPECT_TRUE(contains(failure, "string length")) << failure.message;
  }
}

// G-49
TEST(MetadataTest, TooManyTemplatesAreALimitError) {
  std::string entries;
  for (int i = 0; i < 10'000; ++i) {
    entries += string_entry("tokenizer.chat_template." + std::to_string(i), "{{ x }}");
  }
  EXPECT_EQ(failure_of_entries(10'000, entries).kind, ErrorKind::kModelLimit);
}

// G-49
TEST(MetadataTest, StringsAreUtf8ExceptInVocabularies) {
  const Failure scalar = failure_of_entries(1, string_entry("general.name",
                                                            "ab\xFF"
                                                            "cd"));
  EXPECT_EQ(scalar.kind, ErrorKind::kModelFormat);
  // 24 bytes of header, 8 + 12 + 4 of key and type, 8 of length, 2 good ones.
  EXPECT_TRUE(contains(scalar, "key 'general.name': the string is not UTF-8 (byte 58)"))
      << scalar.message;
  const std::string elements = string_bytes("ok") + string_bytes("\xFF");
  EXPECT_EQ(failure_of_entries(1, array_entry("general.tags", 8, 2, elements)).kind,
            ErrorKind::kModelFormat);
  EXPECT_NO_THROW(parse_bytes(header(0, 1) + array_entry("tokenizer.ggml.merges", 8, 2, elements)));
}

// G-11: the greatest number of keys, all with a long common start, in time that does not square.
TEST(MetadataTest, ManyKeysAreCheckedInTime) {
  std::string entries;
  for (uint32_t i = 0; i < kMaxKeyValues; ++i) {
    entries += u32_entry(std::string(100, 'k') + std::to_string(i * 2654435761u), i);
  }
  // A quadratic scan compares 2 * 10^9 keys of 100 bytes: minutes, and hours under a sanitizer.
  const auto start = Clock::now();
  const Header file = parse_bytes(header(0, kMaxKeyValues) + entries);
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), 20.0);
  EXPECT_EQ(file.metadata.find_u32(std::string(100, 'k') + std::to_string(77 * 2654435761u)), 77u);
}

TEST(MetadataTest, DroppingTokenizerArraysKeepsTheRest) {
  Header file = parse_bytes(complete_file());
  file.metadata.drop_tokenizer_arrays();
  EXPECT_EQ(file.metadata.find_strings("tokenizer.ggml.tokens")->size(), 0u);
  EXPECT_EQ(file.metadata.find_u32("a.u32"), 4'000'000'000u);
  EXPECT_FALSE(file.metadata.has("tokenizer.ggml.scores"));
}

}  // namespace
}  // namespace smallmind::gguf
