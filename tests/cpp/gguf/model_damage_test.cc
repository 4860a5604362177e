// Exhaustive damage to the header of a whole model, through all that reads it: the reader, the
// tokenizer and the loader of weights.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/gang.h"
#include "gguf/model_bytes.h"
#include "model/model.h"
#include "smallmind/tokenizer.h"

namespace smallmind::gguf {
namespace {

void load(const std::string& bytes, Gang& gang) {
  const auto source = memory_source(std::as_bytes(std::span(bytes)));
  const Header file = parse(*source);
  Tokenizer::from_metadata(file.metadata);
  load_model(file, *source, CacheType::kBf16, gang, {});
}

class ModelDamageTest : public ::testing::TestWithParam<const char*> {};

// G-76
TEST_P(ModelDamageTest, EveryFlippedBitOfTheHeaderGivesAModelErrorOrAModel) {
  const ModelBytes model(GetParam());
  std::string bytes = model.all();
  Gang gang(1);
  load(bytes, gang);
  size_t n_refused = 0;
  for (size_t bit = 0; bit < model.header_bytes() * 8; ++bit) {
    const std::string good = bytes;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    try {
      load(bytes, gang);
    } catch (const Error& error) {
      ++n_refused;
      ASSERT_TRUE(error.kind() == ErrorKind::kModelFormat ||
                  error.kind() == ErrorKind::kModelLimit ||
                  error.kind() == ErrorKind::kUnsupportedModel)
          << "bit " << bit << ": " << error.what();
    }
    bytes = good;
  }
  // What may change without harm: token texts, free numbers such as the context length.
  EXPECT_GT(n_refused, model.header_bytes() * 8 * 3 / 4);
  load(bytes, gang);
}

// G-02
TEST_P(ModelDamageTest, EveryTruncationIsRefused) {
  const std::string whole = ModelBytes(GetParam()).all();
  Gang gang(1);
  for (size_t n = 0; n < whole.size(); n += n < 4096 ? 1 : 97) {
    const Failure failure = failure_of([&] { load(whole.substr(0, n), gang); });
    EXPECT_EQ(failure.kind, ErrorKind::kModelFormat) << n << ": " << failure.message;
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, ModelDamageTest, ::testing::Values("llama", "gemma3"));

}  // namespace
}  // namespace smallmind::gguf
