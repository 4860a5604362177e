#include "gguf/reader.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <utility>

#include "base/byte_reader.h"
#include "base/checked_int.h"
#include "base/utf8.h"
#include "gguf/parser.h"

namespace smallmind::gguf {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr auto kTickInterval = std::chrono::milliseconds(5);

// Between pieces: cancellation always, the caller's tick not more often than it can matter.
class Progress {
 public:
  Progress(const CallHooks& hooks, uint64_t total) : hooks_(hooks), total_(total) {}

  void operator()(uint64_t done) {
    hooks_.cancel.check();
    const auto now = Clock::now();
    if (!hooks_.tick || (ticked_ && now - last_tick_ < kTickInterval)) return;
    ticked_ = true;
    last_tick_ = now;
    hooks_.tick("header", done, total_);
  }

 private:
  const CallHooks& hooks_;
  const uint64_t total_;
  bool ticked_ = false;
  Clock::time_point last_tick_;
};

// What a file that is not GGUF looks like, to say so.
std::string_view kind_of_file(std::string_view head) {
  struct Kind {
    std::string_view start;
    std::string_view name;
  };
  static constexpr std::array<Kind, 11> kKinds = {{
      {"lmgg", " (an old GGML file)"},
      {"fmgg", " (an old GGMF file)"},
      {"tjgg", " (an old GGJT file)"},
      {"GGML", " (an old GGML file)"},
      {"GGJT", " (an old GGJT file)"},
      {"FUGG", " (byte order reversed)"},
      {"PK\x03\x04", " (a zip archive, perhaps a PyTorch checkpoint)"},
      {"\x1f\x8b", " (gzip)"},
      {"\x7f"
       "ELF",
       " (an ELF program)"},
      {"\x80\x02", " (a Python pickle)"},
      {"\x80\x04", " (a Python pickle)"},
  }};
  const auto is_start = [&](const Kind& kind) { return head.starts_with(kind.start); };
  const auto kind = std::find_if(kKinds.begin(), kKinds.end(), is_start);
  if (kind != kKinds.end()) return kind->name;
  // safetensors: u64 length of a JSON object, then the object.
  if (head.size() >= 9 && head[8] == '{') return " (a safetensors file)";
  return "";
}

void check_magic(ByteReader& reader, const ByteSource& source) {
  std::string magic(kMagic.size(), '\0');
  reader.take_bytes(std::as_writable_bytes(std::span(magic)), "magic");
  if (magic == kMagic) return;
  std::string head(static_cast<size_t>(std::min<uint64_t>(source.size(), 16)), '\0');
  source.read_at(0, std::as_writable_bytes(std::span(head)));
  reader.fail_at(
      0, ErrorKind::kModelFormat,
      "magic wants 'GGUF', has '" + escape(magic) + "'" + std::string(kind_of_file(head)));
}

void parse_version(ByteReader& reader, Header& header) {
  const uint64_t byte = reader.offset();
  header.version = reader.take<uint32_t>("version");
  if (header.version == 2 || header.version == 3) return;
  const bool is_swapped = header.version != 0 && (header.version & 0xFFFF) == 0;
  reader.fail_at(byte, ErrorKind::kUnsupportedModel,
                 "version " + std::to_string(header.version) + " is not 2 or 3" +
                     (is_swapped ? " (a big-endian file?)" : ""));
}

uint64_t take_count(ByteReader& reader, const char* what, uint64_t limit) {
  const uint64_t byte = reader.offset();
  const auto n = reader.take<uint64_t>(what);
  if (n > limit) {
    reader.fail_at(byte, ErrorKind::kModelLimit,
                   std::string(what) + " " + std::to_string(n) + " is more than the limit " +
                       std::to_string(limit));
  }
  return n;
}

uint64_t read_alignment(const Metadata& metadata) {
  const uint64_t alignment =
      metadata.find_u32("general.alignment").value_or(uint32_t{kDefaultAlignment});
  if (!is_power_of_two(alignment) || alignment > kMaxAlignment) {
    throw Error(ErrorKind::kModelFormat, "key 'general.alignment': wants a power of two up to " +
                                             std::to_string(kMaxAlignment) + ", has " +
                                             std::to_string(alignment));
  }
  return alignment;
}

}  // namespace

const TensorInfo* Header::find_tensor(std::string_view name) const {
  const auto at = std::lower_bound(
      tensors_by_name.begin(), tensors_by_name.end(), name,
      [&](uint32_t index, std::string_view key) { return tensors[index].name < key; });
  return at != tensors_by_name.end() && tensors[*at].name == name ? &tensors[*at] : nullptr;
}

Header parse(const ByteSource& source, const CallHooks& hooks) {
  Progress progress(hooks, std::min(source.size(), kMaxHeaderBytes));
  ByteReader reader(source, kMaxHeaderBytes, std::ref(progress));
  Header header;
  header.file_bytes = source.size();
  reader.set_subject("header", {});
  check_magic(reader, source);
  parse_version(reader, header);
  const uint64_t n_tensors = take_count(reader, "n_tensors", kMaxTensors);
  const uint64_t n_kv = take_count(reader, "n_kv", kMaxKeyValues);

  header.metadata = Metadata(parse_metadata(reader, n_kv));
  header.alignment = read_alignment(header.metadata);
  header.tensors = parse_tensor_infos(reader, n_tensors);
  header.tensors_by_name = sort_by_name(header.tensors);
  // No wrap: the header ends below kMaxHeaderBytes.
  header.data_offset = align_up(CheckedU64(reader.offset()), header.alignment).value();
  place_tensors(header.tensors, header.alignment, header.data_offset, header.file_bytes);
  progress(reader.offset());
  return header;
}

}  // namespace smallmind::gguf
