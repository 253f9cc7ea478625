#include "scheduler.h"

#include <ATen/ATen.h>

#include <sstream>
#include <stdexcept>
#include <utility>

namespace disca_rt {
namespace {

const char* name_of(Slot slot) {
  constexpr const char* kNames[] = {"v", "k", "q", "o"};
  return kNames[static_cast<int>(slot)];
}

int64_t sum(const std::vector<int64_t>& values) {
  int64_t total = 0;
  for (const int64_t value : values) total += value;
  return total;
}

}  // namespace

Scheduler::Scheduler(const Plan& plan, int64_t rank, c10::intrusive_ptr<c10d::ProcessGroup> group,
                     const Format& format, std::chrono::milliseconds timeout, bool keep)
    : plan_(plan),
      rank_(rank),
      group_(std::move(group)),
      format_(format),
      timeout_(timeout),
      keep_(keep),
      members_(plan.members(plan.group_of(rank))) {
  TORCH_CHECK_VALUE(group_->getSize() == plan_.ulysses_degree(), "the group must have the plan's ",
                    plan_.ulysses_degree(), " ranks, got ", group_->getSize());
  TORCH_CHECK_VALUE(members_[group_->getRank()] == rank_, "rank ", rank_,
                    " must be the group's number ", rank_ - members_[0], ", got ",
                    group_->getRank());
  flights_.resize(kSlots);
  for (auto& chunks : flights_) chunks.resize(plan_.chunks());
  send_buffers_.resize(kSlots * plan_.chunks());
  receive_buffers_.resize(kSlots * plan_.chunks());
  if (keep_) return;
  for (int slot = 0; slot < kSlots; ++slot) prepare(static_cast<Slot>(slot));
}

void Scheduler::prepare(Slot slot) {
  const int64_t first = static_cast<int64_t>(slot) * plan_.chunks();
  for (int64_t chunk = 0; chunk < plan_.chunks(); ++chunk) {
    const int64_t out = sum(plan_.send_rows(rank_, chunk));
    const int64_t in = sum(plan_.receive_rows(rank_, chunk));
    const bool returns = slot == Slot::O;
    if (!returns) buffer(send_buffers_, first + chunk, out);
    buffer(receive_buffers_, first + chunk, returns ? out : in);
  }
}

// [B, rows, D]; one that is kept is made once.
at::Tensor Scheduler::buffer(std::vector<at::Tensor>& kept, size_t index, int64_t rows) {
  if (!keep_ && kept[index].defined()) return kept[index];
  const auto options = at::TensorOptions().dtype(format_.dtype).device(format_.device);
  at::Tensor made = at::empty({format_.batch, rows, format_.head_dim}, options);
  if (!keep_) kept[index] = made;
  return made;
}

Scheduler::Flight& Scheduler::flight(Slot slot, int64_t chunk) {
  return flights_[static_cast<int>(slot)].at(chunk);
}

void Scheduler::send(Slot slot, const at::Tensor& tokens) {
  const int64_t shard = plan_.shard(rank_).tokens();
  TORCH_CHECK_VALUE(tokens.sizes() == at::IntArrayRef({format_.batch, shard, plan_.request().heads,
                                                       format_.head_dim}),
                    name_of(slot), " must be [", format_.batch, ", ", shard, ", ",
                    plan_.request().heads, ", ", format_.head_dim, "], got ", tokens.sizes());
  for (int64_t chunk = 0; chunk < plan_.chunks(); ++chunk) {
    Flight& each = flight(slot, chunk);
    const size_t index = static_cast<size_t>(slot) * plan_.chunks() + chunk;
    std::vector<int64_t> out = plan_.send_rows(rank_, chunk);
    std::vector<int64_t> in = plan_.receive_rows(rank_, chunk);
    each.what = std::string("tokens for heads, ") + name_of(slot);
    each.sent = buffer(send_buffers_, index, sum(out));
    each.received = buffer(receive_buffers_, index, sum(in));
    int64_t row = 0;
    for (size_t i = 0; i < members_.size(); ++i) {
      const Span heads = plan_.heads(members_[i], chunk);
      each.sent.narrow(1, row, out[i])
          .view({format_.batch, shard, heads.size(), format_.head_dim})
          .copy_(tokens.narrow(2, heads.start, heads.size()));
      row += out[i];
    }
    start(each, std::move(out), std::move(in));
  }
}

void Scheduler::send_packed(Slot slot, const at::Tensor& packed) {
  TORCH_CHECK_VALUE(plan_.chunks() == 1, "what is packed already goes in one chunk, got ",
                    plan_.chunks());
  Flight& each = flight(slot, 0);
  std::vector<int64_t> out = plan_.send_rows(rank_, 0);
  std::vector<int64_t> in = plan_.receive_rows(rank_, 0);
  each.what = std::string("tokens for heads, ") + name_of(slot);
  each.sent = packed.view({format_.batch, sum(out), format_.head_dim});
  each.received = buffer(receive_buffers_, static_cast<size_t>(slot), sum(in));
  start(each, std::move(out), std::move(in));
}

at::Tensor Scheduler::receive(Slot slot, int64_t chunk) {
  Flight& each = flight(slot, chunk);
  wait(each);
  return each.received.view({format_.batch, plan_.group_tokens(plan_.group_of(rank_)),
                             plan_.heads(rank_, chunk).size(), format_.head_dim});
}

void Scheduler::send_back(int64_t chunk, const at::Tensor& heads) {
  Flight& each = flight(Slot::O, chunk);
  const size_t index = static_cast<size_t>(Slot::O) * plan_.chunks() + chunk;
  std::vector<int64_t> out = plan_.receive_rows(rank_, chunk);  // both ways, exchanged
  std::vector<int64_t> in = plan_.send_rows(rank_, chunk);
  each.what = "heads for tokens, o";
  each.sent = heads.contiguous().view({format_.batch, sum(out), format_.head_dim});
  each.received = buffer(receive_buffers_, index, sum(in));
  start(each, std::move(out), std::move(in));
}

at::Tensor Scheduler::receive_back() {
  const int64_t shard = plan_.shard(rank_).tokens();
  at::Tensor tokens = at::empty({format_.batch, shard, plan_.request().heads, format_.head_dim},
                                at::TensorOptions().dtype(format_.dtype).device(format_.device));
  for (int64_t chunk = 0; chunk < plan_.chunks(); ++chunk) {
    Flight& each = flight(Slot::O, chunk);
    wait(each);
    int64_t row = 0;
    for (const int64_t member : members_) {
      const Span heads = plan_.heads(member, chunk);
      const int64_t rows = shard * heads.size();
      tokens.narrow(2, heads.start, heads.size())
          .copy_(each.received.narrow(1, row, rows)
                     .view({format_.batch, shard, heads.size(), format_.head_dim}));
      row += rows;
    }
  }
  return tokens;
}

int64_t Scheduler::buffer_bytes() const {
  int64_t bytes = 0;
  for (const auto* kept : {&send_buffers_, &receive_buffers_}) {
    for (const at::Tensor& each : *kept) {
      if (each.defined()) bytes += static_cast<int64_t>(each.nbytes());
    }
  }
  return bytes;
}

// A sample's rows lie together, so that what arrives is in gathered order as it comes.
void Scheduler::start(Flight& flight, std::vector<int64_t> send_rows,
                      std::vector<int64_t> receive_rows) {
  ++begun_;
  c10d::AllToAllOptions options;
  options.timeout = timeout_;
  flight.works.clear();
  for (int64_t sample = 0; sample < format_.batch; ++sample) {
    at::Tensor out = flight.sent[sample];
    at::Tensor in = flight.received[sample];
// PyTorch 2.13 calls it all_to_all_single and keeps this name; 2.11 has this name only.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    flight.works.push_back(group_->alltoall_base(in, out, receive_rows, send_rows, options));
#pragma GCC diagnostic pop
  }
}

void Scheduler::wait(Flight& flight) {
  TORCH_CHECK(!flight.works.empty(), "nothing was sent that could be received");
  for (const Work& work : flight.works) {
    try {
      work->wait(timeout_);
    } catch (const std::exception& error) {
      throw std::runtime_error("rank " + std::to_string(rank_) + ", " + flight.what + ": " +
                               error.what());
    }
  }
  flight.works.clear();
  flight.sent.reset();
}

}  // namespace disca_rt
