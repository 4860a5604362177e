#include "engine/task.h"

#include <algorithm>
#include <utility>

#include "base/utf8.h"

namespace smallmind {

namespace {

int64_t max_context(const RequestSpec& spec) {
  return static_cast<int64_t>(spec.context.size()) + spec.max_tokens;
}

}  // namespace

GenerationTask::GenerationTask(std::shared_ptr<TokenChannel> channel,
                               std::shared_ptr<const TaskEnvironment> environment)
    : Task(channel->spec().account, max_context(channel->spec()), channel->spec().hold,
           channel->spec().cache_salt),
      channel_(std::move(channel)),
      environment_(std::move(environment)),
      context_(channel_->spec().context),
      charge_(channel_->spec().ledger, MemoryCategory::kRequests,
              sizeof(GenerationTask) +
                  static_cast<size_t>(max_context(channel_->spec())) * sizeof(int32_t)),
      sampler_(channel_->spec().params, channel_->spec().seed,
               channel_->spec().params.ignore_eos ? std::span<const int32_t>(environment_->end_ids)
                                                  : std::span<const int32_t>()),
      text_(*environment_->tokenizer, channel_->spec().params.stop) {
  context_.reserve(static_cast<size_t>(max_context(channel_->spec())));
}

bool GenerationTask::is_end(int32_t id) const {
  const std::vector<int32_t>& ids = environment_->end_ids;
  return std::binary_search(ids.begin(), ids.end(), id);
}

void GenerationTask::choose(std::span<float> row, SamplerScratch& scratch, Choice& choice) {
  choice = sampler_.choose(row, context_, scratch);
}

void GenerationTask::choose(std::span<const TokenLogit> ranks, SamplerScratch& scratch,
                            Choice& choice) const {
  choice = sampler_.choose(ranks, context_, scratch);
}

std::optional<TokenLogprob> GenerationTask::describe(Choice& choice) const {
  if (!choice.logprob) return std::nullopt;
  TokenLogprob described;
  described.id = choice.id;
  described.text = to_valid_utf8(environment_->tokenizer->token_bytes(choice.id));
  described.logprob = choice.logprob->logprob;
  described.top = std::move(choice.logprob->top);
  return described;
}

std::shared_ptr<Waker> GenerationTask::publish(Choice& choice) {
  if (n_generated_ == 0) channel_->note_cached(std::min(kv().n_reused(), n_prompt()));
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

ScoreTask::ScoreTask(std::shared_ptr<ScoreJob> job, std::shared_ptr<KeyAccount> key,
                     std::shared_ptr<MemoryLedger> ledger)
    : Task(std::move(key), job->positions().back() + 1, nullptr, {}),
      job_(std::move(job)),
      charge_(std::move(ledger), MemoryCategory::kRequests,
              sizeof(ScoreTask) + job_->ids().size() * sizeof(int32_t) +
                  job_->positions().size() * sizeof(int64_t)) {}

TokenChannel::LoopView ScoreTask::poll() {
  if (!is_finished_ && job_->is_cancelled()) fail(nullptr);
  return {!is_finished_, !is_finished_, nullptr};
}

std::shared_ptr<Waker> ScoreTask::fail(std::shared_ptr<const Error> error) {
  if (!std::exchange(is_finished_, true)) job_->finish(std::move(error));
  return nullptr;
}

int64_t ScoreTask::n_left() const { return job_->positions().back() + 1 - kv().size(); }

int64_t ScoreTask::n_outputs(int64_t n) const {
  const int64_t end = kv().size() + n;
  return std::max(end - job_->positions()[n_written_], int64_t{0});
}

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
  job_->progress(kv().size());
  if (n_written_ == job_->positions().size()) fail(nullptr);
}

}  // namespace smallmind
