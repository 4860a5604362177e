// The bytes of whole models of small layers, by default one; their weights are all zero: every
// logit is 0.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gguf/gguf_bytes.h"
#include "gguf/layout.h"

namespace smallmind::gguf {

inline constexpr uint64_t kEmbd = 32;
inline constexpr uint64_t kHeadDim = 16;
inline constexpr uint64_t kVocab = 6;

class ModelBytes {
 public:
  // matrices: the type of the layers' matrices.
  explicit ModelBytes(std::string architecture, uint32_t context_length = 64, uint32_t n_layers = 1,
                      TensorType matrices = TensorType::kF32)
      : architecture_(std::move(architecture)),
        context_length_(context_length),
        n_layers_(n_layers) {
    const bool is_gemma = architecture_ == "gemma3";
    add_hyper_parameters(is_gemma);
    add_vocabulary();
    add_tensor("token_embd.weight", {kEmbd, kVocab});
    add_tensor("output_norm.weight", {kEmbd});
    for (const char* norm : {"attn_norm", "ffn_norm"}) add_layer_tensor(norm, {kEmbd});
    for (const char* name : {"attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})
      add_layer_tensor(name, {kEmbd, kEmbd}, matrices);
    for (const char* name : {"attn_k", "attn_v"})
      add_layer_tensor(name, {kEmbd, kHeadDim}, matrices);
    if (is_gemma) {
      for (const char* norm : {"attn_q_norm", "attn_k_norm"}) add_layer_tensor(norm, {kHeadDim});
      for (const char* norm : {"post_attention_norm", "post_ffw_norm"}) {
        add_layer_tensor(norm, {kEmbd});
      }
    }
  }

  size_t header_bytes() const { return head().size(); }
  std::string all() const { return with_data(head(), data_bytes_); }

 private:
  std::string head() const { return header(n_tensors_, n_entries_) + entries_ + tensors_; }

  void add(const std::string& bytes) {
    entries_ += bytes;
    ++n_entries_;
  }
  void add_count(const char* name, uint32_t value) {
    add(u32_entry(architecture_ + "." + name, value));
  }
  void add_hyper_parameters(bool is_gemma) {
    add(string_entry("general.architecture", architecture_));
    add_count("context_length", context_length_);
    add_count("embedding_length", kEmbd);
    add_count("block_count", n_layers_);
    add_count("feed_forward_length", kEmbd);
    add_count("attention.head_count", 2);
    add_count("attention.head_count_kv", 1);
    add(entry(architecture_ + ".attention.layer_norm_rms_epsilon", 6, bytes_of(1e-5f)));
    if (is_gemma) add_count("attention.sliding_window", 8);
  }
  // The family that does not insist on a token for every byte.
  void add_vocabulary() {
    std::string tokens;
    std::string types;
    for (const char* text : {"<unk>", "<s>", "</s>", "a", "b", "ab"}) tokens += string_bytes(text);
    for (uint64_t i = 0; i < kVocab; ++i) types += bytes_of<int32_t>(i == 0 ? 2 : i < 3 ? 3 : 1);
    add(string_entry("tokenizer.ggml.model", "gpt2"));
    add(string_entry("tokenizer.ggml.pre", "gpt-2"));
    add(array_entry("tokenizer.ggml.tokens", 8, kVocab, tokens));
    add(array_entry("tokenizer.ggml.token_type", 5, kVocab, types));
    add(array_entry("tokenizer.ggml.merges", 8, 1, string_bytes("a b")));
    add(u32_entry("tokenizer.ggml.bos_token_id", 1));
    add(u32_entry("tokenizer.ggml.eos_token_id", 2));
    add(u32_entry("tokenizer.ggml.unknown_token_id", 0));
  }
  void add_layer_tensor(const std::string& name, const std::vector<uint64_t>& dims,
                        TensorType type = TensorType::kF32) {
    for (uint32_t i = 0; i < n_layers_; ++i)
      add_tensor("blk." + std::to_string(i) + "." + name + ".weight", dims, type);
  }
  void add_tensor(const std::string& name, const std::vector<uint64_t>& dims,
                  TensorType type = TensorType::kF32) {
    const auto id = static_cast<uint32_t>(type);
    const TensorTypeTraits traits = tensor_type_traits(id).value();
    uint64_t n_bytes = traits.block_bytes;
    for (const uint64_t extent : dims) n_bytes *= extent;
    n_bytes /= traits.block_elements;
    tensors_ += tensor(name, dims, id, data_bytes_);
    data_bytes_ += (n_bytes + 31) / 32 * 32;
    ++n_tensors_;
  }

  const std::string architecture_;
  const uint32_t context_length_;
  const uint32_t n_layers_;
  std::string entries_;
  std::string tensors_;
  uint64_t n_entries_ = 0;
  uint64_t n_tensors_ = 0;
  uint64_t data_bytes_ = 0;
};

}  // namespace smallmind::gguf
