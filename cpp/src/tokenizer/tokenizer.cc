#include "smallmind/tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/file.h"
#include "base/utf8.h"
#include "gguf/metadata.h"
#include "gguf/reader.h"
#include "smallmind/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pre_tokenizers.h"
#include "tokenizer/special_tokens.h"
#include "tokenizer/spm.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/text_encoder.h"
#include "tokenizer/vocab.h"
#include "tokenizer/vocab_reader.h"

namespace smallmind {
namespace {

// Merging keeps about 50 bytes for each byte of a piece, so a text has a limit.
constexpr size_t kMaxTextBytes = 64 << 20;

// Control tokens that end a generation whatever ids the file names. Only where the file types them
// as control: in some vocabularies "</s>" is a piece of HTML.
constexpr std::array<std::string_view, 21> kEndTexts = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<turn|>",
    "</s>",
    "<eos>",
    "[EOS]",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<|eot|>",
    "<end_of_utterance>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
};

struct Family {
  TextCoding coding;
  const PreTokenizer* row;  // byte-level only
};

// Unknown names are errors: another tokenizer would run and give wrong ids.
Family find_family(const gguf::Metadata& metadata) {
  const std::string_view model = metadata.require_string("tokenizer.ggml.model");
  const auto pre = metadata.find_string("tokenizer.ggml.pre");
  if (model == "llama") {
    if (pre && *pre != "default") {
      throw Error(ErrorKind::kUnsupportedModel,
                  "key 'tokenizer.ggml.pre': '" + escape(*pre) + "' is not known for 'llama'");
    }
    return {TextCoding::kMetaspace, nullptr};
  }
  if (model != "gpt2") {
    throw Error(ErrorKind::kUnsupportedModel, "key 'tokenizer.ggml.model': '" + escape(model) +
                                                  "' is not supported (gpt2, llama are)");
  }
  const PreTokenizer* row = pre ? find_pre_tokenizer(*pre) : nullptr;
  if (row != nullptr) return {TextCoding::kByteLevel, row};
  std::string known;
  for (const PreTokenizer& other : pre_tokenizers()) {
    known += (known.empty() ? "" : ", ") + std::string(other.name);
  }
  throw Error(ErrorKind::kUnsupportedModel,
              "key 'tokenizer.ggml.pre': " +
                  (pre ? "'" + escape(*pre) + "' is not supported" : std::string("is absent")) +
                  " (" + known + " are)");
}

bool read_adds(const gguf::Metadata& metadata, const char* name, int32_t id, bool otherwise) {
  const std::string prefix = "tokenizer.ggml.";
  const std::string flag = prefix + "add_" + name + "_token";
  const bool adds = metadata.find_bool(flag).value_or(otherwise);
  if (adds && id == Vocab::kNone) {
    throw Error(ErrorKind::kModelFormat, "key '" + flag + "': is true" +
                                             (metadata.has(flag) ? "" : " (absent, by default)") +
                                             ", but '" + prefix + name + "_token_id' is absent");
  }
  return adds;
}

class GgufTokenizer final : public Tokenizer {
 public:
  explicit GgufTokenizer(const gguf::Metadata& metadata)
      : GgufTokenizer(metadata, find_family(metadata)) {}

  std::vector<int32_t> encode(std::string_view utf8, bool add_special, bool parse_special,
                              std::span<const size_t> literal_marks) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special) const override;
  std::string_view token_view(int32_t id) const override { return vocab_.bytes(id); }
  bool leading_space_is_added(int32_t id) const override {
    return add_space_prefix_ && vocab_.is_plain(id) && vocab_.bytes(id).front() == ' ';
  }

  int32_t n_vocab() const override { return vocab_.size(); }
  int32_t bos_id() const override { return ids_.bos; }
  int32_t eos_id() const override { return ids_.eos; }
  bool add_bos() const override { return add_bos_; }
  bool is_control(int32_t id) const override { return is_token(id) && vocab_.is_control(id); }
  bool is_end_of_generation(int32_t id) const override {
    return std::binary_search(end_ids_.begin(), end_ids_.end(), id);
  }
  std::vector<int32_t> end_ids() const override { return end_ids_; }
  std::vector<std::string> control_texts() const override;
  const std::string& chat_template() const override { return chat_template_; }
  size_t memory_bytes() const override {
    return sizeof *this + vocab_.memory_bytes() + encoder_->memory_bytes() +
           special_.memory_bytes() + end_ids_.capacity() * sizeof(int32_t) +
           chat_template_.capacity();
  }

 private:
  GgufTokenizer(const gguf::Metadata& metadata, const Family& family);
  std::unique_ptr<const TextEncoder> make_encoder(const gguf::Metadata& metadata,
                                                  const Family& family) const;
  std::vector<int32_t> find_end_ids() const;
  bool is_token(int32_t id) const { return id >= 0 && id < vocab_.size(); }

  // All constant after construction.
  const Vocab vocab_;
  const SpecialIds ids_;
  const bool add_bos_;
  const bool add_eos_;
  const bool add_space_prefix_;
  const SpecialTokens special_;
  const std::unique_ptr<const TextEncoder> encoder_;
  const std::vector<int32_t> end_ids_;  // ascending
  const std::string chat_template_;
};

GgufTokenizer::GgufTokenizer(const gguf::Metadata& metadata, const Family& family)
    : vocab_(read_vocab(metadata, family.coding)),
      ids_(read_special_ids(metadata, vocab_)),
      add_bos_(read_adds(metadata, "bos", ids_.bos, family.row == nullptr || family.row->adds_bos)),
      add_eos_(read_adds(metadata, "eos", ids_.eos, false)),
      add_space_prefix_(family.coding == TextCoding::kMetaspace &&
                        metadata.find_bool("tokenizer.ggml.add_space_prefix").value_or(true)),
      special_(vocab_),
      encoder_(make_encoder(metadata, family)),
      end_ids_(find_end_ids()),
      chat_template_(read_chat_template(metadata)) {}

std::unique_ptr<const TextEncoder> GgufTokenizer::make_encoder(const gguf::Metadata& metadata,
                                                               const Family& family) const {
  const auto scores = read_scores(metadata, vocab_);
  if (family.coding == TextCoding::kMetaspace) {
    if (!scores) {
      throw Error(ErrorKind::kModelFormat, "key 'tokenizer.ggml.scores': is absent");
    }
    return std::make_unique<SpmEncoder>(vocab_, *scores, read_byte_ids(vocab_), add_space_prefix_);
  }
  const auto merges = metadata.find_strings("tokenizer.ggml.merges");
  if (!merges) throw Error(ErrorKind::kModelFormat, "key 'tokenizer.ggml.merges': is absent");
  // A control token may not come out of text, not even as the unknown one.
  const bool usable =
      ids_.unknown != Vocab::kNone && vocab_.type(ids_.unknown) != TokenType::kControl;
  return std::make_unique<BpeEncoder>(vocab_, *family.row, *merges,
                                      usable ? ids_.unknown : Vocab::kNone);
}

std::vector<int32_t> GgufTokenizer::find_end_ids() const {
  std::vector<int32_t> ids;
  for (const int32_t id : {ids_.eos, ids_.eot, ids_.eom}) {
    if (id != Vocab::kNone) ids.push_back(id);
  }
  for (const std::string_view text : kEndTexts) {
    const int32_t id = vocab_.find_literal(text);
    if (id != Vocab::kNone && vocab_.type(id) == TokenType::kControl) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

std::vector<int32_t> GgufTokenizer::encode(std::string_view utf8, bool add_special,
                                           bool parse_special,
                                           std::span<const size_t> literal_marks) const {
  if (utf8.size() > kMaxTextBytes) {
    throw Error(ErrorKind::kInvalidArgument, "text: has " + std::to_string(utf8.size()) +
                                                 " bytes, the limit is " +
                                                 std::to_string(kMaxTextBytes));
  }
  const size_t bad = find_invalid_utf8(utf8);
  if (bad != std::string_view::npos) {
    throw Error(ErrorKind::kInvalidArgument, "text: is not UTF-8 at byte " + std::to_string(bad));
  }
  std::vector<int32_t> ids;
  ids.reserve(utf8.size() / 3 + 2);
  if (add_special && add_bos_) ids.push_back(ids_.bos);
  bool after_special = true;
  size_t at = 0;
  const auto encode_until = [&](size_t end) {
    if (end == at) return;
    encoder_->encode(utf8.substr(at, end - at), after_special, at, ids);
    after_special = false;
  };
  for (const SpecialMatch& match : special_.find(utf8, parse_special, literal_marks)) {
    encode_until(match.begin);
    ids.push_back(match.id);
    after_special = true;
    at = match.end;
  }
  encode_until(utf8.size());
  if (add_special && add_eos_) ids.push_back(ids_.eos);
  return ids;
}

std::string GgufTokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (is_token(ids[i])) continue;
    throw Error(ErrorKind::kInvalidArgument, "ids[" + std::to_string(i) + "]: is " +
                                                 std::to_string(ids[i]) + ", the vocabulary has " +
                                                 std::to_string(vocab_.size()) + " tokens");
  }
  StreamDecoder decoder(*this, skip_special, /*starts_text=*/true);
  std::string out;
  for (const int32_t id : ids) decoder.push(id, out);
  decoder.flush(out);
  return out;
}

std::vector<std::string> GgufTokenizer::control_texts() const {
  std::vector<std::string> texts;
  for (int32_t id = 0; id < vocab_.size(); ++id) {
    if (vocab_.is_control(id) && !vocab_.bytes(id).empty()) texts.emplace_back(vocab_.bytes(id));
  }
  return texts;
}

}  // namespace

std::shared_ptr<const Tokenizer> Tokenizer::from_gguf(const std::string& path,
                                                      const CallHooks& hooks) {
  hooks.cancel.check();
  const gguf::Header header = gguf::parse(*open_file(path), hooks);
  return from_metadata(header.metadata);
}

std::shared_ptr<const Tokenizer> Tokenizer::from_metadata(const gguf::Metadata& metadata) {
  return std::make_shared<const GgufTokenizer>(metadata);
}

}  // namespace smallmind
