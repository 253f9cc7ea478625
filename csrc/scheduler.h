// Runs a plan over a process group: what is ready leaves at once, and waits for nobody.
//
// A collective is issued from the stream that computed its input and awaited by the stream that
// uses its output, so on a GPU transfers run beside kernels and the host waits for neither; over
// gloo they run in its threads. Knows tensors and one Ulysses group, no models and no rings.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "plan.h"

namespace disca_rt {

// What travels; each has buffers of its own.
enum class Slot { V, K, Q, O };
constexpr int kSlots = 4;

// Of tensors that arrive.
struct Format {
  int64_t batch = 1;
  int64_t head_dim = 1;
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
};

class Scheduler {
 public:
  // `group` is the Ulysses group of `rank`, its members in the plan's order. Buffers are made here
  // and used by every exchange: what `receive` gives is good until the slot is sent again. With
  // `keep` every exchange has tensors of its own, as a backward pass needs them.
  Scheduler(const Plan& plan, int64_t rank, c10::intrusive_ptr<c10d::ProcessGroup> group,
            const Format& format, std::chrono::milliseconds timeout, bool keep);

  const Plan& plan() const { return plan_; }

  // This rank's tokens of all heads, [B, S_shard, H, D], leave for the members that hold the heads.
  void send(Slot slot, const at::Tensor& tokens);
  // The same, packed already: [B][member][S_shard, H_member, D] in one piece, chunks of heads one.
  void send_packed(Slot slot, const at::Tensor& packed);
  // All tokens of the group of one chunk of this rank's heads, [B, S_group, H_chunk, D].
  at::Tensor receive(Slot slot, int64_t chunk);

  // The way back: all tokens of a chunk of this rank's heads leave for the members they belong to.
  void send_back(int64_t chunk, const at::Tensor& heads);
  // This rank's tokens of all heads, [B, S_shard, H, D].
  at::Tensor receive_back();

  // Exchanges begun: how far this rank is.
  int64_t begun() const { return begun_; }
  // Bytes that all buffers take.
  int64_t buffer_bytes() const;

 private:
  using Work = c10::intrusive_ptr<c10d::Work>;

  // One chunk on its way, an exchange for each sample.
  struct Flight {
    at::Tensor sent;  // kept alive until it has left
    at::Tensor received;
    std::vector<Work> works;
    std::string what;
  };

  Flight& flight(Slot slot, int64_t chunk);
  void prepare(Slot slot);
  at::Tensor buffer(std::vector<at::Tensor>& kept, size_t index, int64_t rows);
  void start(Flight& flight, std::vector<int64_t> send_rows, std::vector<int64_t> receive_rows);
  void wait(Flight& flight);

  Plan plan_;
  int64_t rank_;
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  Format format_;
  std::chrono::milliseconds timeout_;
  bool keep_;
  int64_t begun_ = 0;
  std::vector<int64_t> members_;
  std::vector<std::vector<Flight>> flights_;  // by slot and chunk
  std::vector<at::Tensor> send_buffers_;      // by slot and chunk
  std::vector<at::Tensor> receive_buffers_;
};

}  // namespace disca_rt
