#include "model/weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <new>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/utf8.h"
#include "quant/pack.h"
#include "quant/panel.h"
#include "smallmind/error.h"

namespace smallmind {
namespace {

// File bytes that are read and packed at a time: they stay in the second-level cache in between,
// and a cancel is seen within a millisecond.
constexpr size_t kPieceBytes = 256 << 10;
// Pieces that make an item of the gang: about a huge page, so that two threads seldom touch one for
// the first time together, which would clear it twice.
constexpr size_t kItemPieces = 8;

std::string shape_text(const gguf::TensorInfo& t) {
  std::string text = "[";
  for (uint32_t i = 0; i < t.n_dims; ++i) text += (i ? ", " : "") + std::to_string(t.dims[i]);
  return text + "]";
}

std::string type_name(gguf::TensorType type) {
  return std::string(gguf::tensor_type_traits(static_cast<uint32_t>(type))->name);
}

// A run of panels of one matrix.
struct Piece {
  const gguf::TensorInfo* tensor;
  const PackedMatrix* target;
  size_t first_panel;
  size_t n_panels;
  float* norms;  // of the matrix's panels; null: not wanted

  size_t row_bytes() const { return quant::row_bytes(target->type, target->n_columns); }
  size_t first_row() const { return first_panel * quant::kPanelRows; }
  size_t n_rows() const {
    return std::min(n_panels * quant::kPanelRows, target->n_rows - first_row());
  }
  size_t n_bytes() const { return n_rows() * row_bytes(); }  // in the file
};

// rows: room for the piece as the file has it.
void read_and_pack(const Piece& piece, const ByteSource& source, std::byte* rows) {
  const PackedMatrix& m = *piece.target;
  const size_t row_bytes = piece.row_bytes(), n_rows = piece.n_rows();
  source.read_at(piece.tensor->offset + piece.first_row() * row_bytes, {rows, piece.n_bytes()});
  for (size_t p = 0; p < piece.n_panels; ++p) {
    auto* panel = const_cast<std::byte*>(m.panels) + (piece.first_panel + p) * m.panel_bytes;
    const size_t at = p * quant::kPanelRows;
    quant::pack_panel(m.type, rows + at * row_bytes, std::min(quant::kPanelRows, n_rows - at),
                      m.n_columns, panel);
  }
  if (piece.norms != nullptr)
    kernels().panel_norms(m, piece.first_panel, piece.n_panels, piece.norms + piece.first_panel);
}

std::vector<Piece> cut(const gguf::TensorInfo& tensor, const PackedMatrix& m, float* norms) {
  const size_t panel_bytes = quant::row_bytes(m.type, m.n_columns) * quant::kPanelRows;
  const size_t step = std::max<size_t>(1, kPieceBytes / std::max<size_t>(1, panel_bytes));
  std::vector<Piece> pieces;
  for (size_t p = 0; p < m.n_panels(); p += step)
    pieces.push_back({&tensor, &m, p, std::min(step, m.n_panels() - p), norms});
  return pieces;
}

// In items of several pieces, with the gang's help. tick and cancel as in CallHooks.
void read_and_pack_all(std::span<const Piece> pieces, const ByteSource& source, Gang& gang,
                       const CallHooks& hooks) {
  uint64_t total = 0;
  size_t largest = 0;
  for (const Piece& piece : pieces) {
    total += piece.n_bytes();
    largest = std::max(largest, piece.n_bytes());
  }
  std::vector<AlignedBuffer<std::byte>> rows;
  for (int worker = 0; worker < gang.n_threads(); ++worker) rows.emplace_back(largest);
  std::atomic<uint64_t> done{0};
  gang.for_each((pieces.size() + kItemPieces - 1) / kItemPieces, [&](size_t item, int worker) {
    const size_t begin = item * kItemPieces;
    for (const Piece& piece : pieces.subspan(begin, std::min(kItemPieces, pieces.size() - begin))) {
      hooks.cancel.check();
      read_and_pack(piece, source, rows[static_cast<size_t>(worker)].data());
      const uint64_t now = done.fetch_add(piece.n_bytes()) + piece.n_bytes();
      if (worker == 0 && hooks.tick) hooks.tick("weights", now, total);
    }
  });
  hooks.cancel.check();
  if (hooks.tick) hooks.tick("weights", total, total);
}

void read_vector(const gguf::TensorInfo& tensor, const ByteSource& source,
                 std::vector<float>& out) {
  std::vector<std::byte> bytes(tensor.n_bytes);
  source.read_at(tensor.offset, bytes);
  out.resize(tensor.dims[0]);
  quant::dequantize(tensor.type, bytes, out);
}

}  // namespace

WeightArena::WeightArena(size_t bytes, std::shared_ptr<MemoryLedger> ledger)
    : bytes_(std::max<size_t>(bytes, 1)) {
  void* mapped =
      ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(mapped);
  charge_ = MemoryCharge(std::move(ledger), MemoryCategory::kWeights, bytes_);
  ::madvise(data_, bytes_,
            MADV_HUGEPAGE);  // fewer page faults and TLB misses where the system allows it
}

WeightArena::~WeightArena() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

void WeightArena::protect() { ::mprotect(data_, bytes_, PROT_READ); }

bool WeightBinder::has(const std::string& name) const {
  return header_.find_tensor(name) != nullptr;
}

const gguf::TensorInfo& WeightBinder::take(const std::string& name) {
  const gguf::TensorInfo* tensor = header_.find_tensor(name);
  if (tensor == nullptr)
    throw Error(ErrorKind::kModelFormat, "tensor '" + escape(name) + "' is missing");
  taken_.insert(tensor);
  return *tensor;
}

void WeightBinder::matrix(const std::string& name, size_t n_rows, size_t n_columns,
                          PackedMatrix& target, std::vector<float>* norms) {
  const gguf::TensorInfo& t = take(name);
  if (t.n_dims != 2 || t.dims[0] != n_columns || t.dims[1] != n_rows) {
    throw Error(ErrorKind::kModelFormat, "tensor '" + escape(name) + "' is " + shape_text(t) +
                                             "; wants [" + std::to_string(n_columns) + ", " +
                                             std::to_string(n_rows) + "]");
  }
  if (quant::has_codes(t.type) && n_columns % quant::kBlockColumns != 0)
    throw Error(ErrorKind::kModelFormat, "tensor '" + escape(name) + "': rows of " +
                                             std::to_string(n_columns) +
                                             " elements; wants a multiple of 32");
  target = {t.type, n_rows, n_columns, quant::panel_bytes(t.type, n_columns), nullptr};
  matrices_.push_back({&t, &target, norms});
}

void WeightBinder::vector(const std::string& name, size_t n, std::vector<float>& target) {
  const gguf::TensorInfo& t = take(name);
  if (t.n_dims != 1 || t.dims[0] != n)
    throw Error(ErrorKind::kModelFormat, "tensor '" + escape(name) + "' is " + shape_text(t) +
                                             "; wants [" + std::to_string(n) + "]");
  if (quant::has_codes(t.type))
    throw Error(ErrorKind::kUnsupportedModel, "tensor '" + escape(name) + "' has type " +
                                                  type_name(t.type) + "; wants F32, F16 or BF16");
  vectors_.push_back({&t, &target});
}

void WeightBinder::refuse_unbound() const {
  for (const gguf::TensorInfo& t : header_.tensors)
    if (!taken_.contains(&t))
      throw Error(ErrorKind::kModelFormat,
                  "tensor '" + escape(t.name) + "' is not part of this architecture");
}

void WeightBinder::load(const ByteSource& source, Gang& gang, const CallHooks& hooks,
                        std::shared_ptr<MemoryLedger> ledger, Weights& weights) {
  refuse_unbound();
  size_t arena_bytes = 0;  // at most a small multiple of the file's own size
  for (const MatrixJob& job : matrices_)
    arena_bytes += job.target->n_panels() * job.target->panel_bytes;
  weights.arena = std::make_unique<WeightArena>(arena_bytes, std::move(ledger));
  std::byte* next = weights.arena->data();
  std::sort(matrices_.begin(), matrices_.end(), [](const MatrixJob& a, const MatrixJob& b) {
    return a.tensor->offset < b.tensor->offset;
  });
  std::vector<Piece> pieces;
  for (const MatrixJob& job : matrices_) {
    PackedMatrix& m = *job.target;
    m.panels = next;
    next += m.n_panels() * m.panel_bytes;
    float* norms = nullptr;
    if (job.norms != nullptr) {
      job.norms->resize(m.n_panels());
      norms = job.norms->data();
    }
    for (const Piece& piece : cut(*job.tensor, m, norms)) pieces.push_back(piece);
  }
  for (const VectorJob& job : vectors_) read_vector(*job.tensor, source, *job.target);
  read_and_pack_all(pieces, source, gang, hooks);
  weights.arena->protect();
}

std::string layer_tensor(size_t layer, const char* name) {
  return "blk." + std::to_string(layer) + "." + name + ".weight";
}

void bind_decoder(const Config& c, WeightBinder& binder, Weights& w) {
  const bool ties = !binder.has("output.weight");
  std::vector<float>* norms = c.logit_softcap == 0 ? &w.output_norms : nullptr;
  binder.matrix("token_embd.weight", c.n_vocab, c.n_embd, w.embedding, ties ? norms : nullptr);
  if (!ties) binder.matrix("output.weight", c.n_vocab, c.n_embd, w.output, norms);
  binder.vector("output_norm.weight", c.n_embd, w.output_norm);
  w.layers.resize(c.n_layers);
  for (size_t i = 0; i < c.n_layers; ++i) {
    LayerWeights& l = w.layers[i];
    binder.vector(layer_tensor(i, "attn_norm"), c.n_embd, l.attention_norm);
    binder.vector(layer_tensor(i, "ffn_norm"), c.n_embd, l.ffn_norm);
    binder.matrix(layer_tensor(i, "attn_q"), c.n_queries(), c.n_embd, l.q);
    binder.matrix(layer_tensor(i, "attn_k"), c.n_keys(), c.n_embd, l.k);
    binder.matrix(layer_tensor(i, "attn_v"), c.n_keys(), c.n_embd, l.v);
    binder.matrix(layer_tensor(i, "attn_output"), c.n_embd, c.n_queries(), l.o);
    binder.matrix(layer_tensor(i, "ffn_gate"), c.n_ff, c.n_embd, l.gate);
    binder.matrix(layer_tensor(i, "ffn_up"), c.n_ff, c.n_embd, l.up);
    binder.matrix(layer_tensor(i, "ffn_down"), c.n_embd, c.n_ff, l.down);
  }
}

}  // namespace smallmind
