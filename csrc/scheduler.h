// Runs a partition over a process group: what is ready leaves at once, and waits for nobody.
//
// A collective is issued from the stream that computed its input and awaited by the stream that
// uses its output, so on a GPU transfers run beside kernels and the host waits for neither; over
// gloo they run in its threads. Knows tensors and process groups, no models.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "partition.h"

namespace disca_rt {

// The tensor that an exchange carries; each has buffers of its own.
enum class Slot { V, K, Q, O };
constexpr int kSlots = 4;

// Shape beyond the rows, dtype and place of the tensors that are exchanged.
struct Format {
  int64_t batch = 1;
  int64_t head_dim = 1;
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
};

// Number of exchanges and collectives a rank has begun; one counter per rank, read while it runs.
struct Progress {
  std::atomic<int64_t> begun = 0;
};

class Scheduler {
 public:
  // `group` is the Ulysses group of `rank`, its members in the partition's order; `ring` the ranks
  // of the same number in every group, needed where there is more than one. With `reuse_buffers`
  // these are made once: what `receive` gives is good until the slot is sent again, and what
  // `receive_back` gives until it is called again. Without, every exchange has tensors of its own,
  // as a backward pass needs them; then one scheduler for each attention, since a slot that is
  // under way cannot be sent again.
  Scheduler(const Partition& partition, int64_t rank, c10::intrusive_ptr<c10d::ProcessGroup> group,
            c10::intrusive_ptr<c10d::ProcessGroup> ring, const Format& format,
            std::chrono::milliseconds timeout, bool reuse_buffers,
            std::shared_ptr<Progress> progress);

  const Partition& partition() const { return partition_; }

  // This rank's tokens of all heads, [B, S_shard, H, D], leave for the members that hold the heads.
  void send(Slot slot, const at::Tensor& tokens);
  // The same, packed already: [B][member][S_shard, H_member, D] in one piece, chunks of heads one.
  void send_packed(Slot slot, const at::Tensor& packed);
  // All tokens of the group of one chunk of this rank's heads, [B, S_group, H_chunk, D].
  at::Tensor receive(Slot slot, int64_t chunk);

  // The way back: all tokens of a chunk of this rank's heads leave for the members they belong to.
  void send_back(Slot slot, int64_t chunk, const at::Tensor& heads);
  // This rank's tokens of all heads, [B, S_shard, H, D].
  at::Tensor receive_back(Slot slot);

  // Round the ring of groups: one chunk of heads, of the tokens of group number `origin`, leaves
  // for the next group (back: the previous one), and what the other neighbour has is on its way
  // here.
  void pass_on(Slot slot, int64_t chunk, int64_t origin, const at::Tensor& heads, bool back);
  at::Tensor receive_passed(Slot slot, int64_t chunk);

  // Bytes that all buffers take.
  int64_t buffer_bytes() const;

 private:
  using Work = c10::intrusive_ptr<c10d::Work>;

  // One chunk on its way; `works` are empty when it is here.
  struct Transfer {
    at::Tensor sent;  // kept alive until it has left
    at::Tensor received;
    std::vector<Work> works;
    std::string what;
  };

  // Purposes of the buffers of one exchange; each is made at its first use and then kept.
  enum class Use { Sent, Received, Returned, Tokens, PassedEven, PassedOdd };
  using Key = std::tuple<Use, Slot, int64_t>;  // and the chunk

  // The heads of consecutive members, [B, members, S_shard, H, D]: as they lie among the tokens,
  // and as they are sent.
  struct Piece {
    at::Tensor tokens;
    at::Tensor packed;
  };

  Transfer& transfer(Slot slot, int64_t chunk);
  at::Tensor buffer(Use use, Slot slot, int64_t chunk, int64_t rows);
  std::vector<Piece> pieces(const at::Tensor& tokens, const at::Tensor& packed,
                            int64_t chunk) const;
  void start(Transfer& transfer, c10d::ProcessGroup& group, std::vector<int64_t> send_rows,
             std::vector<int64_t> receive_rows);
  void wait(Transfer& transfer);

  Partition partition_;
  int64_t rank_;
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  c10::intrusive_ptr<c10d::ProcessGroup> ring_;
  Format format_;
  std::chrono::milliseconds timeout_;
  bool reuse_buffers_;
  std::shared_ptr<Progress> progress_;  // counts every exchange
  std::vector<int64_t> members_;
  std::array<std::vector<Transfer>, kSlots> transfers_;  // by slot and chunk
  std::array<Transfer, kSlots> passed_;
  std::map<Key, at::Tensor> buffers_;
};

}  // namespace disca_rt
