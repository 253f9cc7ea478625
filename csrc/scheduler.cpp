#include "scheduler.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <sstream>
#include <stdexcept>
#include <utility>

namespace disca_rt {
namespace {

const char* name_of(Slot slot) {
  constexpr const char* kNames[] = {"v", "k", "q", "o"};
  return kNames[static_cast<int>(slot)];
}

constexpr int64_t kWide = 16;  // bytes that one thread of a GPU moves at once

bool is_wide(const at::Tensor& heads) {
  const int64_t item = heads.element_size();
  bool is_whole = heads.stride(-1) == 1 && heads.size(-1) * item % kWide == 0 &&
                  heads.storage_offset() * item % kWide == 0;
  for (int64_t dim = 0; dim < heads.dim() - 1; ++dim) {
    is_whole = is_whole && heads.stride(dim) * item % kWide == 0;
  }
  return is_whole;
}

// One kernel, in elements of 16 bytes where both lie in such, as heads of a model do: a thread then
// finds the place of eight values of two bytes at once.
void copy_heads(const at::Tensor& to, const at::Tensor& from) {
  if (is_wide(to) && is_wide(from)) {
    to.view(at::kComplexDouble).copy_(from.view(at::kComplexDouble));
  } else {
    to.copy_(from);
  }
}

int64_t sum(const std::vector<int64_t>& values) {
  int64_t total = 0;
  for (const int64_t value : values) total += value;
  return total;
}

void check_group(const char* name, const c10d::ProcessGroup& group, int64_t size, int64_t rank) {
  TORCH_CHECK_VALUE(group.getSize() == size && group.getRank() == rank, name, " must have ", size,
                    " ranks with this one as number ", rank, ", got number ", group.getRank(),
                    " of ", group.getSize());
}

}  // namespace

Scheduler::Scheduler(const Partition& partition, int64_t rank,
                     c10::intrusive_ptr<c10d::ProcessGroup> group,
                     c10::intrusive_ptr<c10d::ProcessGroup> ring, const Format& format,
                     std::chrono::milliseconds timeout, bool reuse_buffers,
                     std::shared_ptr<Progress> progress)
    : partition_(partition),
      rank_(rank),
      group_(std::move(group)),
      ring_(std::move(ring)),
      format_(format),
      timeout_(timeout),
      reuse_buffers_(reuse_buffers),
      progress_(std::move(progress)),
      members_(partition.members(partition.group_of(rank))) {
  check_group("group", *group_, partition_.ulysses_degree(), rank_ - members_[0]);
  if (partition_.ring_degree() > 1) {
    TORCH_CHECK_VALUE(ring_, "ring must be given for the partition's ", partition_.ring_degree(),
                      " groups");
    check_group("ring", *ring_, partition_.ring_degree(), partition_.group_of(rank_));
  }
  for (auto& chunks : transfers_) chunks.resize(partition_.chunks());
}

// [B, rows, D].
at::Tensor Scheduler::buffer(Use use, Slot slot, int64_t chunk, int64_t rows) {
  const auto options = at::TensorOptions().dtype(format_.dtype).device(format_.device);
  const auto make = [&] {
    // Else what is made in inference mode could not be written outside of it, at a later use.
    const c10::InferenceMode guard(false);
    return at::empty({format_.batch, rows, format_.head_dim}, options);
  };
  if (!reuse_buffers_) return make();
  const auto [place, is_new] = buffers_.try_emplace({use, slot, chunk});
  if (is_new) place->second = make();
  return place->second;
}

Scheduler::Transfer& Scheduler::transfer(Slot slot, int64_t chunk) {
  return transfers_[static_cast<int>(slot)].at(chunk);
}

// Neighbours with equally many heads are one piece: what they hold of a chunk is as far apart as
// all heads of each are many. Where heads divide evenly all members are one.
std::vector<Scheduler::Piece> Scheduler::pieces(const at::Tensor& tokens, const at::Tensor& packed,
                                                int64_t chunk) const {
  const int64_t shard = tokens.size(1), last = static_cast<int64_t>(members_.size());
  std::vector<Piece> found;
  int64_t row = 0;
  for (int64_t first = 0, next = 0; first < last; first = next) {
    const IndexRange heads = partition_.heads(members_[first], chunk);
    const int64_t apart = partition_.heads(members_[first]).size(), width = heads.size();
    for (; next < last; ++next)
      if (partition_.heads(members_[next]).size() != apart) break;
    const int64_t count = next - first, rows = count * shard * width;
    const at::Tensor spread = tokens.narrow(2, heads.start, (count - 1) * apart + width);
    found.push_back(
        {spread.unfold(2, width, apart).permute({0, 2, 1, 4, 3}),
         packed.narrow(1, row, rows).view({format_.batch, count, shard, width, format_.head_dim})});
    row += rows;
  }
  return found;
}

void Scheduler::send(Slot slot, const at::Tensor& tokens) {
  const int64_t shard = partition_.shard(rank_).tokens();
  TORCH_CHECK_VALUE(
      tokens.sizes() ==
          at::IntArrayRef({format_.batch, shard, partition_.request().heads, format_.head_dim}),
      name_of(slot), " must be [", format_.batch, ", ", shard, ", ", partition_.request().heads,
      ", ", format_.head_dim, "], got ", tokens.sizes());
  for (int64_t chunk = 0; chunk < partition_.chunks(); ++chunk) {
    Transfer& each = transfer(slot, chunk);
    std::vector<int64_t> out = partition_.send_rows(rank_, chunk);
    std::vector<int64_t> in = partition_.receive_rows(rank_, chunk);
    each.what = std::string("tokens for heads, ") + name_of(slot);
    each.sent = buffer(Use::Sent, slot, chunk, sum(out));
    each.received = buffer(Use::Received, slot, chunk, sum(in));
    for (const Piece& piece : pieces(tokens, each.sent, chunk)) {
      copy_heads(piece.packed, piece.tokens);
    }
    start(each, *group_, std::move(out), std::move(in));
  }
}

void Scheduler::send_packed(Slot slot, const at::Tensor& packed) {
  TORCH_CHECK_VALUE(partition_.chunks() == 1, "what is packed already goes in one chunk, got ",
                    partition_.chunks());
  Transfer& each = transfer(slot, 0);
  std::vector<int64_t> out = partition_.send_rows(rank_, 0);
  std::vector<int64_t> in = partition_.receive_rows(rank_, 0);
  each.what = std::string("tokens for heads, ") + name_of(slot);
  each.sent = packed.view({format_.batch, sum(out), format_.head_dim});
  each.received = buffer(Use::Received, slot, 0, sum(in));
  start(each, *group_, std::move(out), std::move(in));
}

at::Tensor Scheduler::receive(Slot slot, int64_t chunk) {
  Transfer& each = transfer(slot, chunk);
  wait(each);
  return each.received.view({format_.batch, partition_.group_tokens(partition_.group_of(rank_)),
                             partition_.heads(rank_, chunk).size(), format_.head_dim});
}

void Scheduler::send_back(Slot slot, int64_t chunk, const at::Tensor& heads) {
  Transfer& each = transfer(slot, chunk);
  std::vector<int64_t> out = partition_.receive_rows(rank_, chunk);  // both ways, exchanged
  std::vector<int64_t> in = partition_.send_rows(rank_, chunk);
  each.what = std::string("heads for tokens, ") + name_of(slot);
  each.sent = heads.contiguous().view({format_.batch, sum(out), format_.head_dim});
  each.received = buffer(Use::Returned, slot, chunk, sum(in));
  start(each, *group_, std::move(out), std::move(in));
}

at::Tensor Scheduler::receive_back(Slot slot) {
  const int64_t shard = partition_.shard(rank_).tokens();
  const int64_t heads = partition_.request().heads;
  at::Tensor tokens = buffer(Use::Tokens, slot, 0, shard * heads)
                          .view({format_.batch, shard, heads, format_.head_dim});
  for (int64_t chunk = 0; chunk < partition_.chunks(); ++chunk) {
    Transfer& each = transfer(slot, chunk);
    wait(each);
    for (const Piece& piece : pieces(tokens, each.received, chunk))
      copy_heads(piece.tokens, piece.packed);
  }
  return tokens;
}

// To one neighbour from the other is an all-to-all in which all else is empty: every backend has
// it, and none can lock up in who sends first.
void Scheduler::pass_on(Slot slot, int64_t chunk, int64_t origin, const at::Tensor& heads,
                        bool back) {
  const int64_t groups = partition_.ring_degree(), here = partition_.group_of(rank_),
                step = back ? -1 : 1;
  const int64_t arrives = (origin - step + groups) % groups;
  const int64_t width = partition_.heads(rank_, chunk).size();
  std::vector<int64_t> out(groups), in(groups);
  out[(here + step + groups) % groups] = partition_.group_tokens(origin) * width;
  in[(here - step + groups) % groups] = partition_.group_tokens(arrives) * width;
  // What was passed last is still read while this arrives.
  const bool is_odd = (here - origin + groups) % groups % 2;  // how often it was passed
  Transfer& each = passed_[static_cast<int>(slot)];
  each.what = std::string("round the ring, ") + name_of(slot);
  each.sent = heads.contiguous().view({format_.batch, sum(out), format_.head_dim});
  at::Tensor kept = buffer(is_odd ? Use::PassedOdd : Use::PassedEven, slot, chunk,
                           partition_.largest_group_tokens() * width);
  each.received = kept.narrow(1, 0, sum(in));
  start(each, *ring_, std::move(out), std::move(in));
}

at::Tensor Scheduler::receive_passed(Slot slot, int64_t chunk) {
  Transfer& each = passed_[static_cast<int>(slot)];
  wait(each);
  const int64_t width = partition_.heads(rank_, chunk).size();
  return each.received.unflatten(1, {each.received.size(1) / width, width});
}

int64_t Scheduler::buffer_bytes() const {
  int64_t bytes = 0;
  for (const auto& [_, each] : buffers_) bytes += static_cast<int64_t>(each.nbytes());
  return bytes;
}

// A sample's rows lie together, so that what arrives is in gathered order as it comes.
void Scheduler::start(Transfer& transfer, c10d::ProcessGroup& group, std::vector<int64_t> send_rows,
                      std::vector<int64_t> receive_rows) {
  // Its tensors are still written, and whoever sent it would get this one's.
  TORCH_CHECK(transfer.works.empty(), transfer.what,
              ": sent again before it was received; end one attention before the next begins");
  ++progress_->begun;
  c10d::AllToAllOptions options;
  options.timeout = timeout_;
  for (int64_t sample = 0; sample < format_.batch; ++sample) {
    at::Tensor out = transfer.sent[sample];
    at::Tensor in = transfer.received[sample];
// PyTorch 2.13 calls it all_to_all_single and keeps this name; 2.11 has this name only.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    transfer.works.push_back(group.alltoall_base(in, out, receive_rows, send_rows, options));
#pragma GCC diagnostic pop
  }
}

void Scheduler::wait(Transfer& transfer) {
  TORCH_CHECK(!transfer.works.empty(), "nothing was sent that could be received");
  for (const Work& work : transfer.works) {
    try {
      // With a time-out NCCL's would hold up the host; without one the stream waits, and the
      // group's own time-out ends what hangs.
      format_.device.is_cuda() ? work->wait() : work->wait(timeout_);
    } catch (const std::exception& error) {
      throw std::runtime_error(transfer.what + ": " + error.what());
    }
  }
  transfer.works.clear();
  transfer.sent.reset();
}

}  // namespace disca_rt
