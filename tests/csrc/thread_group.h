// A process group whose ranks are threads of one program, so that the sanitizers see both ends.
//
// It stands in for gloo, whose headers PyTorch's wheel lacks, and is less kind: a transfer happens
// some time after both ends have begun it, pair by pair in random order, and keeps no tensor alive.
// What is freed or written too early is a use after free or a wrong value.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"

// One rank's part of a collective; done when its parcels have all left and arrived.
class Transfer : public c10d::Work {
 public:
  explicit Transfer(size_t parcels) : parcels_(parcels) {}

  void parcel_done() {
    if (--parcels_ == 0) finish();
  }

 private:
  std::atomic<size_t> parcels_;
};

// Bytes at one end, read or written when both ends are there.
struct Parcel {
  char* data;
  size_t bytes;
  c10::intrusive_ptr<Transfer> transfer;
};

// Carries parcels between the ranks of one group, first come first served on each way.
class Wire {
 public:
  explicit Wire(unsigned seed) : random_(seed), carrier_([this] { carry(); }) {}

  ~Wire() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      is_ended_ = true;
    }
    changed_.notify_all();
    carrier_.join();
  }

  void send(int from, int to, Parcel parcel) { put(&Way::sent, from, to, std::move(parcel)); }
  void receive(int from, int to, Parcel parcel) { put(&Way::awaited, from, to, std::move(parcel)); }

 private:
  struct Way {
    std::deque<Parcel> sent;
    std::deque<Parcel> awaited;
    bool is_ready() const { return !sent.empty() && !awaited.empty(); }
  };

  void put(std::deque<Parcel> Way::* end, int from, int to, Parcel parcel) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      (ways_[{from, to}].*end).push_back(std::move(parcel));
    }
    changed_.notify_all();
  }

  void carry() {
    while (true) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return is_ended_ || !ready().empty(); });
      if (is_ended_) return;
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(random_() % 100));
      lock.lock();
      const std::vector<Way*> ways = ready();
      Way& way = *ways[random_() % ways.size()];
      const Parcel sent = std::move(way.sent.front()), awaited = std::move(way.awaited.front());
      way.sent.pop_front();
      way.awaited.pop_front();
      lock.unlock();
      CHECK(sent.bytes == awaited.bytes);
      if (sent.bytes > 0) std::memcpy(awaited.data, sent.data, sent.bytes);
      sent.transfer->parcel_done();
      awaited.transfer->parcel_done();
    }
  }

  std::vector<Way*> ready() {
    std::vector<Way*> found;
    for (auto& [ends, way] : ways_) {
      if (way.is_ready()) found.push_back(&way);
    }
    return found;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::pair<int, int>, Way> ways_;
  bool is_ended_ = false;
  std::mt19937 random_;
  std::thread carrier_;  // last: it uses the others
};

class ThreadBackend : public c10d::Backend {
 public:
  ThreadBackend(std::shared_ptr<Wire> wire, int rank, int size)
      : Backend(rank, size), wire_(std::move(wire)) {}

  const std::string getBackendName() const override { return "threads"; }

  c10::intrusive_ptr<c10d::Work> alltoall_base(at::Tensor& received, at::Tensor& sent,
                                               std::vector<int64_t>& receive_rows,
                                               std::vector<int64_t>& send_rows,
                                               const c10d::AllToAllOptions&) override {
    auto transfer = c10::make_intrusive<Transfer>(send_rows.size() + receive_rows.size());
    std::vector<Parcel> out = parcels(sent, send_rows, transfer);
    std::vector<Parcel> in = parcels(received, receive_rows, transfer);
    for (int peer = 0; peer < size_; ++peer) {
      wire_->send(rank_, peer, std::move(out.at(peer)));
      wire_->receive(peer, rank_, std::move(in.at(peer)));
    }
    return transfer;
  }

 private:
  // One for each peer, of so many rows of `tensor`.
  static std::vector<Parcel> parcels(const at::Tensor& tensor, const std::vector<int64_t>& rows,
                                     const c10::intrusive_ptr<Transfer>& transfer) {
    CHECK(tensor.is_contiguous());
    const size_t row_bytes = tensor.stride(0) * tensor.element_size();
    char* data = static_cast<char*>(tensor.data_ptr());
    std::vector<Parcel> made;
    for (const int64_t count : rows) {
      made.push_back({data, count * row_bytes, transfer});
      data += count * row_bytes;
    }
    CHECK(data == static_cast<char*>(tensor.data_ptr()) + tensor.nbytes());
    return made;
  }

  std::shared_ptr<Wire> wire_;
};

// What rank `rank` of `size` holds of the group whose ranks share `wire`.
inline c10::intrusive_ptr<c10d::ProcessGroup> thread_group(std::shared_ptr<Wire> wire, int rank,
                                                           int size) {
  constexpr auto kCustom = c10d::ProcessGroup::BackendType::CUSTOM;
  auto group = c10::make_intrusive<c10d::ProcessGroup>(rank, size);
  group->setBackend(c10::DeviceType::CPU, kCustom,
                    c10::make_intrusive<ThreadBackend>(std::move(wire), rank, size));
  group->setDefaultBackend(kCustom);
  return group;
}
