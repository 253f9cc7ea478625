// The scheduler's promises over random partitions: what is exchanged comes back bit by bit, buffers
// are made once, what goes wrong is named. Ranks are threads.
#include "../../csrc/scheduler.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "thread_group.h"

using disca_rt::Format;
using disca_rt::Partition;
using disca_rt::Request;
using disca_rt::Scheduler;
using disca_rt::Slot;

namespace {

using Group = c10::intrusive_ptr<c10d::ProcessGroup>;

constexpr int kCases = 60;
constexpr int kLayers = 3;
constexpr auto kPatience = std::chrono::seconds(60);
constexpr std::array kSent = {Slot::V, Slot::K, Slot::Q};
constexpr std::array kPassed = {Slot::K, Slot::V};

struct Groups {
  Group ulysses;
  Group ring;
};

struct Case {
  Request request;
  Format format;
  bool reuse_buffers = true;
  bool is_packed = false;
  bool is_back = false;  // round the ring
  uint64_t seed = 0;
};

// Every rank runs `body`, each in a thread and with its groups.
void on_all_ranks(const Partition& partition, unsigned seed,
                  const std::function<void(int64_t, const Groups&)>& body) {
  const int degree = static_cast<int>(partition.ulysses_degree());
  const int groups = static_cast<int>(partition.ring_degree());
  const auto wires = [&seed](int count) {
    std::vector<std::shared_ptr<Wire>> made;
    for (int i = 0; i < count; ++i) made.push_back(std::make_shared<Wire>(seed++));
    return made;
  };
  const auto ulysses = wires(groups), ring = wires(degree);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < groups * degree; ++rank) {
    threads.emplace_back([&, rank] {
      const int group = rank / degree, number = rank % degree;
      try {
        body(rank, {thread_group(ulysses[group], number, degree),
                    thread_group(ring[number], group, groups)});
      } catch (const std::exception& error) {
        std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
        CHECK(!"a rank throws");
      }
    });
  }
  for (std::thread& each : threads) each.join();
}

// Where a rank's tokens were in the whole sample, image first.
std::vector<int64_t> places(const Partition& partition, int64_t rank) {
  std::vector<int64_t> found;
  const auto shard = partition.shard(rank);
  for (int64_t i = shard.img.start; i < shard.img.stop; ++i) found.push_back(i);
  for (int64_t i = shard.txt.start; i < shard.txt.stop; ++i) {
    found.push_back(partition.request().img_tokens + i);
  }
  return found;
}

std::vector<int64_t> group_places(const Partition& partition, int64_t group) {
  std::vector<int64_t> found;
  for (const int64_t member : partition.members(group)) {
    for (const int64_t place : places(partition, member)) found.push_back(place);
  }
  return found;
}

at::Tensor tokens_at(const at::Tensor& whole, const std::vector<int64_t>& places) {
  return whole.index_select(1, at::tensor(places, at::kLong));
}

at::Tensor heads_of(const at::Tensor& tokens, const disca_rt::IndexRange& heads) {
  return tokens.narrow(2, heads.start, heads.size());
}

// A view into a wider tensor, as rows of a fused product are.
at::Tensor strided(const at::Tensor& tokens) {
  return at::cat({tokens, tokens}, 2).narrow(2, 0, tokens.size(2));
}

// [B][member][S_shard, H_member, D]
at::Tensor packed(const Partition& partition, int64_t rank, const at::Tensor& tokens) {
  std::vector<at::Tensor> of_members;
  for (const int64_t member : partition.members(partition.group_of(rank))) {
    of_members.push_back(heads_of(tokens, partition.heads(member)).flatten(1));
  }
  return at::cat(of_members, 1);
}

// One layer of one rank: all that a model asks of its scheduler.
class Layer {
 public:
  // `whole`: the sample's tokens [B, S, H, D] of each slot.
  Layer(const Case& asked, Scheduler& scheduler, int64_t rank, std::vector<at::Tensor> whole)
      : case_(asked),
        scheduler_(scheduler),
        partition_(scheduler.partition()),
        rank_(rank),
        whole_(std::move(whole)) {}

  void run() {
    for (const Slot slot : kSent) send(slot);
    for (int64_t chunk = 0; chunk < partition_.chunks(); ++chunk) {
      const int64_t own = partition_.group_of(rank_);
      std::array<at::Tensor, disca_rt::kSlots> here;
      for (const Slot slot : kSent) {
        here[index(slot)] = arrived(scheduler_.receive(slot, chunk), slot, chunk, own);
      }
      round(chunk, here);
      for (const Slot slot : kSent) spoil(here[index(slot)]);
      scheduler_.send_back(Slot::O, chunk, expected(Slot::Q, chunk, own));
    }
    back_ = scheduler_.receive_back(Slot::O);
    CHECK(at::equal(back_, mine(Slot::Q)));
  }

  const void* back() const { return back_.data_ptr(); }

  // Whether everything that arrived is as it was: only with tensors of its own.
  void check_kept() const {
    for (const auto& [here, expected] : kept_) CHECK(at::equal(here, expected));
  }

 private:
  static size_t index(Slot slot) { return static_cast<size_t>(slot); }

  void send(Slot slot) {
    if (case_.is_packed) {
      scheduler_.send_packed(slot, packed(partition_, rank_, mine(slot)));
    } else {
      scheduler_.send(slot, strided(mine(slot)));
    }
  }

  // Keys and values of all groups in turn; each leaves for the next group when it is here.
  void round(int64_t chunk, std::array<at::Tensor, disca_rt::kSlots>& here) {
    const int64_t groups = partition_.ring_degree(), step = case_.is_back ? -1 : 1;
    int64_t group = partition_.group_of(rank_);
    for (int64_t turn = 1; turn < groups; ++turn) {
      for (const Slot slot : kPassed) {
        scheduler_.pass_on(slot, chunk, group, here[index(slot)], case_.is_back);
      }
      const int64_t next = (group - step + groups) % groups;
      for (const Slot slot : kPassed) {
        const at::Tensor before = here[index(slot)];
        const at::Tensor passed = scheduler_.receive_passed(slot, chunk);
        CHECK(at::equal(before, expected(slot, chunk, group)));  // still read meanwhile
        spoil(before);
        here[index(slot)] = arrived(passed, slot, chunk, next);
      }
      group = next;
    }
  }

  at::Tensor arrived(const at::Tensor& here, Slot slot, int64_t chunk, int64_t group) {
    CHECK(at::equal(here, expected(slot, chunk, group)));
    if (!case_.reuse_buffers) kept_.emplace_back(here, expected(slot, chunk, group));
    return here;
  }

  // What the next use of a buffer must not see.
  void spoil(const at::Tensor& used) const {
    if (case_.reuse_buffers) used.fill_(NAN);
  }

  at::Tensor mine(Slot slot) const {
    return tokens_at(whole_[index(slot)], places(partition_, rank_));
  }

  at::Tensor expected(Slot slot, int64_t chunk, int64_t group) const {
    const at::Tensor gathered = tokens_at(whole_[index(slot)], group_places(partition_, group));
    return heads_of(gathered, partition_.heads(rank_, chunk));
  }

  const Case& case_;
  Scheduler& scheduler_;
  const Partition& partition_;
  int64_t rank_;
  std::vector<at::Tensor> whole_;
  std::vector<std::pair<at::Tensor, at::Tensor>> kept_;
  at::Tensor back_;
};

void what_is_exchanged_comes_back(const Case& asked, const Partition& partition, int64_t rank,
                                  const Groups& groups) {
  const auto progress = std::make_shared<disca_rt::Progress>();
  Scheduler scheduler(partition, rank, groups.ulysses, groups.ring, asked.format, kPatience,
                      asked.reuse_buffers, progress);
  auto generator = at::detail::createCPUGenerator(asked.seed);  // the same on every rank
  const auto drawn = [&] {
    const int64_t tokens = asked.request.img_tokens + asked.request.txt_tokens;
    const auto shape = {asked.format.batch, tokens, asked.request.heads, asked.format.head_dim};
    return at::randn(shape, generator).to(asked.format.dtype);
  };
  std::vector<Layer> layers;
  int64_t bytes = 0;
  for (int done = 0; done < kLayers; ++done) {
    layers.emplace_back(asked, scheduler, rank, std::vector{drawn(), drawn(), drawn()});
    layers.back().run();
    // A graph that reads what came back finds that of each layer at one address.
    if (asked.reuse_buffers) CHECK(layers.back().back() == layers.front().back());
    if (done > 0) CHECK(scheduler.buffer_bytes() == bytes);  // all are made by the first layer
    bytes = scheduler.buffer_bytes();
  }
  CHECK((bytes == 0) != asked.reuse_buffers);
  for (const Layer& each : layers) each.check_kept();
  const int64_t of_chunk =
      std::ssize(kSent) + 1 + std::ssize(kPassed) * (partition.ring_degree() - 1);
  CHECK(progress->begun == kLayers * partition.chunks() * of_chunk);
}

Case random_case(std::mt19937& random) {
  const auto from = [&](int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random);
  };
  Case made;
  made.request.ranks = from(1, 6);
  made.request.heads = from(2, 9);
  made.request.img_tokens = from(made.request.ranks, 50);
  made.request.txt_tokens = from(0, 9);
  made.is_packed = from(0, 3) == 0;
  made.is_back = from(0, 1) == 0;
  made.request.head_chunks = made.is_packed ? 1 : from(1, 3);
  made.reuse_buffers = from(0, 2) > 0;
  made.format.batch = from(1, 3);
  made.format.head_dim = from(1, 16);
  made.format.dtype = from(0, 1) == 0 ? at::kFloat : at::kBFloat16;
  made.seed = random();
  return made;
}

void random_exchanges() {
  std::mt19937 random(1);
  int rings = 0;
  for (int done = 0; done < kCases; ++done) {
    Case asked = random_case(random);
    if (asked.request.ranks > asked.request.heads) asked.request.ranks = 4;  // 2 and 2, or 4
    const Partition partition(asked.request);
    rings += partition.ring_degree() > 1;
    on_all_ranks(partition, random(), [&](int64_t rank, const Groups& groups) {
      what_is_exchanged_comes_back(asked, partition, rank, groups);
    });
  }
  CHECK(rings >= kCases / 20);
}

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

bool starts_with(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

void what_is_wrong_is_named() {
  Request request;
  request.img_tokens = 6;
  request.txt_tokens = 2;
  request.heads = 2;
  request.ranks = 2;
  const Partition partition(request);
  const auto wire = std::make_shared<Wire>(1);
  const Format format{1, 4};
  const auto made = [&](int64_t rank, const Group& group) {
    return Scheduler(partition, rank, group, nullptr, format, std::chrono::milliseconds(50), true,
                     std::make_shared<disca_rt::Progress>());
  };
  CHECK(refusal([&] { made(0, thread_group(wire, 0, 3)); }) ==
        "group must have 2 ranks with this one as number 0, got number 0 of 3");
  CHECK(refusal([&] { made(1, thread_group(wire, 0, 2)); }) ==
        "group must have 2 ranks with this one as number 1, got number 0 of 2");
  Scheduler scheduler = made(0, thread_group(wire, 0, 2));
  CHECK(refusal([&] { scheduler.send(Slot::K, at::zeros({1, 4, 2, 5})); }) ==
        "k must be [1, 4, 2, 4], got [1, 4, 2, 5]");
  CHECK(refusal([&] { scheduler.receive(Slot::V, 0); }) ==
        "nothing was sent that could be received");
  scheduler.send(Slot::V, at::zeros({1, 4, 2, 4}));  // and rank 1 never does
  CHECK(refusal([&] { scheduler.send(Slot::V, at::zeros({1, 4, 2, 4})); }) ==
        "tokens for heads, v: sent again before it was received; end one attention before the next "
        "begins");
  CHECK(starts_with(refusal([&] { scheduler.receive(Slot::V, 0); }), "tokens for heads, v: "));
}

}  // namespace

int main() {
  random_exchanges();
  what_is_wrong_is_named();
  std::printf("%d checks\n", checks.load());
}
