// The partition's promises over many requests: everything is somewhere once, and sends match
// receives.
#include "../../csrc/partition.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "check.h"

using disca_rt::IndexRange;
using disca_rt::Partition;
using disca_rt::Request;

namespace {

Request request(int64_t img, int64_t txt, int64_t heads, int64_t ranks) {
  Request made;
  made.img_tokens = img;
  made.txt_tokens = txt;
  made.heads = heads;
  made.ranks = ranks;
  return made;
}

void everything_is_somewhere_once(const Partition& partition) {
  const Request& asked = partition.request();
  IndexRange img, txt;
  int64_t fewest = asked.img_tokens + asked.txt_tokens, most = 0;
  for (int64_t rank = 0; rank < asked.ranks; ++rank) {
    const auto shard = partition.shard(rank);
    CHECK(shard.img.start == img.stop);
    CHECK(shard.txt.start == txt.stop);
    img = shard.img;
    txt = shard.txt;
    fewest = std::min(fewest, shard.tokens());
    most = std::max(most, shard.tokens());
  }
  CHECK(img.stop == asked.img_tokens);
  CHECK(txt.stop == asked.txt_tokens);
  CHECK(most - fewest <= 1);
  for (int64_t group = 0; group < partition.ring_degree(); ++group) {
    IndexRange last;
    for (const int64_t rank : partition.members(group)) {
      CHECK(partition.group_of(rank) == group);
      CHECK(partition.heads(rank).start == last.stop);
      CHECK(partition.heads(rank).size() >= 1);
      for (int64_t chunk = 0; chunk < partition.chunks(); ++chunk) {
        const IndexRange piece = partition.heads(rank, chunk);
        CHECK(piece.start == last.stop);
        CHECK(piece.size() >= 1);
        last = piece;
      }
      CHECK(partition.heads(rank).stop == last.stop);
    }
    CHECK(last.stop == asked.heads);
  }
}

void sends_match_receives(const Partition& partition) {
  for (int64_t group = 0; group < partition.ring_degree(); ++group) {
    const auto members = partition.members(group);
    for (int64_t chunk = 0; chunk < partition.chunks(); ++chunk) {
      for (size_t i = 0; i < members.size(); ++i) {
        const auto sent = partition.send_rows(members[i], chunk);
        for (size_t j = 0; j < members.size(); ++j) {
          CHECK(sent[j] == partition.receive_rows(members[j], chunk)[i]);
        }
      }
    }
    for (const int64_t rank : members) {
      int64_t passed = 0;
      for (int64_t turn = 0; turn + 1 < partition.ring_degree(); ++turn) {
        passed += partition.group_tokens((group + partition.ring_degree() - turn) %
                                         partition.ring_degree());
      }
      CHECK(partition.ring_bytes(rank) == 2 * passed * partition.heads(rank).size() * 256);
      int64_t sent = 0, received = 0;
      for (int64_t chunk = 0; chunk < partition.chunks(); ++chunk) {
        for (const int64_t rows : partition.send_rows(rank, chunk)) sent += rows;
        for (const int64_t rows : partition.receive_rows(rank, chunk)) received += rows;
      }
      CHECK(sent == partition.shard(rank).tokens() * partition.request().heads);
      CHECK(received == partition.group_tokens(group) * partition.heads(rank).size());
    }
  }
}

std::string refusal(const Request& asked) {
  try {
    Partition partition(asked);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

void illegal_requests_say_what_is_legal() {
  CHECK(refusal(request(0, 1, 8, 1)) == "img_tokens must be from 1 to 1000000000, got 0");
  CHECK(refusal(request(6, 1, 8, 8)) == "ranks must be at most the 7 tokens, got 8");
  CHECK(refusal(request(100, 1, 3, 5)) ==
        "ranks must have a divisor from 2 to the 3 heads, got 5; nearest legal are, with what a "
        "rank sends per block, 2 (ring steps 0, 89.9 kB), 3 (ring steps 0, 69.4 kB), "
        "4 (ring steps 1, 85.0 kB), 6 (ring steps 1, 60.9 kB), 8 (ring steps 3, 94.5 kB), "
        "9 (ring steps 2, 58.9 kB)");
  Request asked = request(100, 1, 24, 8);
  asked.ulysses_degree = 3;
  CHECK(refusal(asked).find(
            "got 3; legal are, with what a rank sends per block, 1 (ring steps 7, ") !=
        std::string::npos);
  asked = request(100, 1, 24, 10);
  asked.ranks_per_node = 3;
  CHECK(refusal(asked).find("that divides the 3 ranks of a node, got 10") != std::string::npos);
  asked = request(100, 1, 24, 16);
  asked.ranks_per_node = 8;
  asked.ulysses_degree = 16;
  CHECK(refusal(asked).find(
            "must divide the 16 ranks and the 8 of a node and be at most the 24 heads, got 16; "
            "legal are, with what a rank sends per block, 1 (ring steps 15, ") !=
        std::string::npos);
  CHECK(refusal(asked).find("8 (ring steps 1, ") != std::string::npos);
  CHECK(refusal(asked).find("16 (ring steps 0, ") == std::string::npos);
  CHECK(refusal(request(4, 100, 3, 25)).find("27 (ring steps 8, ") != std::string::npos);
  CHECK(refusal(request(1'000'000, 1, 2, 999'999)).find("1000000 (ring") != std::string::npos);
}

// 2 ranks, 2 heads, 10 tokens each: one head's V, K, Q of ten tokens go out, O of ten comes back.
void bytes_are_those_of_other_ranks_rows() {
  Request asked = request(16, 4, 2, 2);
  asked.row_bytes = 10;
  CHECK(Partition(asked).exchange_bytes(0) == 4 * 10 * 10 && Partition(asked).ring_bytes(0) == 0);
  asked.ulysses_degree =
      1;  // all heads stay; K and V of ten tokens of two heads are passed on once
  CHECK(Partition(asked).exchange_bytes(0) == 0 &&
        Partition(asked).ring_bytes(0) == 2 * 10 * 2 * 10);
  for (int64_t rank = 0; rank < 7; ++rank) {
    const Partition partition(request(97, 5, 8, 7));
    int64_t sent = 0;
    for (size_t peer = 0; peer < 7; ++peer) {
      if (static_cast<int64_t>(peer) == rank) continue;
      sent += 3 * partition.send_rows(rank, 0)[peer] + partition.receive_rows(rank, 0)[peer];
    }
    CHECK(partition.exchange_bytes(rank) == sent * 256);
  }
}

// A rank with more heads than others keeps them waiting; a tenth is worth a shorter ring.
void degrees_share_heads_evenly() {
  constexpr std::pair<int64_t, int64_t> k24[] = {{1, 1},  {5, 5},   {7, 7},  {8, 8},   {9, 3},
                                                 {10, 5}, {12, 12}, {16, 8}, {24, 24}, {26, 13},
                                                 {32, 8}, {48, 24}, {64, 8}};
  for (const auto& [ranks, degree] : k24) {
    CHECK(Partition(request(63888, 256, 24, ranks)).ulysses_degree() == degree);
  }
  CHECK(Partition(request(63888, 256, 16, 24)).ulysses_degree() == 8);
}

void what_a_partition_does_not_have_is_refused() {
  Request asked = request(100, 5, 8, 4);
  asked.ulysses_degree = 2;
  const Partition partition(asked);
  const auto said = [](auto call) -> std::string {
    try {
      call();
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  const std::string ranks = "rank must be from 0 to 3, got ";
  CHECK(said([&] { partition.shard(4); }) == ranks + "4");
  CHECK(said([&] { partition.shard(-1); }) == ranks + "-1");
  CHECK(said([&] { partition.heads(4); }) == ranks + "4");
  CHECK(said([&] { partition.group_of(4); }) == ranks + "4");
  CHECK(said([&] { partition.send_rows(4, 0); }) == ranks + "4");
  CHECK(said([&] { partition.heads(0, 1); }) == "chunk must be from 0 to 0, got 1");
  CHECK(said([&] { partition.members(2); }) == "group must be from 0 to 1, got 2");
  CHECK(said([&] { partition.group_tokens(2); }) == "group must be from 0 to 1, got 2");
}

// So that no product overflows: the sanitizers see that of the largest partition.
void counts_are_bounded() {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  CHECK(refusal(request(kMost, 2, 8, 8)).find("img_tokens must be from 1 to ") == 0);
  CHECK(refusal(request(1, kMost, 8, 8)).find("txt_tokens must be from 0 to ") == 0);
  CHECK(refusal(request(100, 2, kMost, 8)).find("heads must be from 1 to ") == 0);
  Request largest = request(1'000'000'000, 1'000'000'000, 10'000, 16);
  largest.row_bytes = 100'000;
  const Partition partition(largest);
  CHECK(partition.shard(15).tokens() == 125'000'000);
  CHECK(partition.exchange_bytes(15) > 0 && partition.ring_bytes(15) == 0);
  largest.row_bytes += 1;
  CHECK(refusal(largest) == "row_bytes must be from 1 to 100000, got 100001");
}

void groups_stay_in_a_node() {
  for (int64_t ranks = 1; ranks <= 40; ++ranks) {
    for (const int64_t per_node : {2, 4, 6, 8}) {
      Request asked = request(1000, 10, 24, ranks);
      asked.ranks_per_node = per_node;
      if (!refusal(asked).empty()) continue;
      const Partition partition(asked);
      for (int64_t group = 0; group < partition.ring_degree(); ++group) {
        const auto members = partition.members(group);
        CHECK(members.front() / per_node == members.back() / per_node);
      }
    }
  }
}

}  // namespace

int main() {
  for (int64_t ranks = 1; ranks <= 17; ++ranks) {
    for (const int64_t heads : {1, 3, 8, 16, 24}) {
      for (const int64_t img : {17, 240, 1000}) {
        for (const int64_t txt : {0, 1, 16, 257}) {
          for (const int64_t chunks : {1, 2, 5}) {
            Request asked = request(img, txt, heads, ranks);
            asked.head_chunks = chunks;
            if (!refusal(asked).empty()) continue;
            const Partition partition(asked);
            everything_is_somewhere_once(partition);
            sends_match_receives(partition);
          }
        }
      }
    }
  }
  degrees_share_heads_evenly();
  what_a_partition_does_not_have_is_refused();
  counts_are_bounded();
  illegal_requests_say_what_is_legal();
  bytes_are_those_of_other_ranks_rows();
  groups_stay_in_a_node();
  std::printf("%d checks\n", checks.load());
}
