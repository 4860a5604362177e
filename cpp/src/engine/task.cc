#include "engine/task.h"

#include <algorithm>
#include <utility>

#include "base/utf8.h"

namespace smallmind {

GenerationTask::GenerationTask(std::shared_ptr<TokenChannel> channel, KvCache& kv,
                               const TaskEnvironment& environment)
    : channel_(std::move(channel)),
      kv_(kv),
      environment_(environment),
      context_(channel_->spec().context),
      sampler_(
          channel_->spec().params, channel_->spec().seed,
          channel_->spec().params.ignore_eos ? environment.end_ids : std::span<const int32_t>()),
      text_(environment.tokenizer, channel_->spec().params.stop) {
  // The last prompt token is always computed: its logits choose the first token.
  const int64_t n_prompt = static_cast<int64_t>(context_.size());
  kv_.truncate(std::min(kv_.common_prefix(context_), n_prompt - 1));
}

bool GenerationTask::is_end(int32_t id) const {
  return std::binary_search(environment_.end_ids.begin(), environment_.end_ids.end(), id);
}

Choice GenerationTask::choose(std::span<float> row, SamplerScratch& scratch) {
  return sampler_.choose(row, context_, scratch);
}

std::optional<TokenLogprob> GenerationTask::describe(Choice& choice) const {
  if (!choice.logprob) return std::nullopt;
  TokenLogprob described;
  described.id = choice.id;
  described.text = to_valid_utf8(environment_.tokenizer.token_bytes(choice.id));
  described.logprob = choice.logprob->logprob;
  described.top = std::move(choice.logprob->top);
  return described;
}

std::shared_ptr<Waker> GenerationTask::publish(Choice choice) {
  if (is_end(choice.id)) return channel_->publish_end(FinishReason::kStop);
  context_.push_back(choice.id);
  Token token;
  token.id = choice.id;
  token.index = n_generated_++;
  token.logprob = describe(choice);
  TextAssembler::Piece piece = text_.push(choice.id);
  token.text = std::move(piece.text);
  if (piece.is_stopped) return channel_->publish(std::move(token), {}, FinishReason::kStop);
  std::optional<FinishReason> end;
  if (n_generated_ >= channel_->spec().max_tokens) end = FinishReason::kLength;
  return channel_->publish(std::move(token), text_.tail(), end);
}

TokenChannel::LoopView ScoreTask::poll() {
  if (!is_finished_ && job_->is_cancelled()) fail(nullptr);
  return {!is_finished_, !is_finished_, nullptr};
}

std::shared_ptr<Waker> ScoreTask::fail(std::shared_ptr<const Error> error) {
  if (!std::exchange(is_finished_, true)) job_->finish(std::move(error));
  return nullptr;
}

int64_t ScoreTask::n_left() { return job_->positions().back() + 1 - kv_.size(); }

std::vector<int32_t> ScoreTask::wanted_rows(int64_t first_position, int64_t n,
                                            int32_t first_row) const {
  std::vector<int32_t> rows;
  const std::vector<int64_t>& positions = job_->positions();
  for (size_t i = n_written_; i < positions.size() && positions[i] < first_position + n; ++i) {
    rows.push_back(first_row + static_cast<int32_t>(positions[i] - first_position));
  }
  return rows;
}

float* ScoreTask::next_out(int64_t n_vocab) const {
  return job_->out() + n_written_ * static_cast<size_t>(n_vocab);
}

void ScoreTask::note_written(size_t n_rows) {
  n_written_ += n_rows;
  job_->progress(kv_.size());
  if (n_written_ == job_->positions().size()) fail(nullptr);
}

}  // namespace smallmind
