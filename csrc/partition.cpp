#include "partition.h"

#include <algorithm>
#include <iomanip>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>

namespace disca_rt {
namespace {

// Part `index` of `count` in `parts` nearly equal ones: sizes differ by one at most.
IndexRange part(int64_t count, int64_t parts, int64_t index) {
  return {count * index / parts, count * (index + 1) / parts};
}

// Groups are consecutive ranks, so among several nodes only a divisor of a node's ranks leaves none
// of them half here and half there.
bool stays_in_node(int64_t degree, int64_t ranks, int64_t ranks_per_node) {
  return ranks_per_node == 0 || ranks <= ranks_per_node || ranks_per_node % degree == 0;
}

// Divisors of `ranks` from 2 that fit `heads` and a node, the largest first.
std::vector<int64_t> ulysses_degrees(int64_t ranks, int64_t heads, int64_t ranks_per_node) {
  std::vector<int64_t> degrees;
  for (int64_t degree = std::min(ranks, heads); degree > 1; --degree) {
    if (ranks % degree == 0 && stays_in_node(degree, ranks, ranks_per_node)) {
      degrees.push_back(degree);
    }
  }
  return degrees;
}

// Heads of all members if each had as many as the one with the most, who keeps the others waiting.
int64_t even_heads(int64_t heads, int64_t degree) { return (heads + degree - 1) / degree * degree; }

// The largest degree whose share of heads is within a tenth of the most even one's. A simulation of
// 2 to 32 ranks in a node, 24 and 16 heads, found it 0.015 of efficiency behind the best degree on
// average, and the largest of all 0.070.
int64_t default_ulysses_degree(int64_t ranks, int64_t heads, int64_t ranks_per_node) {
  const std::vector<int64_t> degrees = ulysses_degrees(ranks, heads, ranks_per_node);
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (const int64_t degree : degrees) fewest = std::min(fewest, even_heads(heads, degree));
  for (const int64_t degree : degrees) {
    if (9 * even_heads(heads, degree) <= 10 * fewest) return degree;
  }
  return 1;
}

// A ring of single ranks moves all keys and values through every rank: no partition of ours.
bool is_legal(int64_t ranks, int64_t heads, int64_t ranks_per_node) {
  return ranks == 1 || !ulysses_degrees(ranks, heads, ranks_per_node).empty();
}

std::string sized(int64_t bytes) {
  constexpr const char* kUnits[] = {"kB", "MB", "GB"};
  double value = static_cast<double>(bytes) / 1e3;
  int unit = 0;
  for (; value >= 1000 && unit < 2; ++unit) value /= 1000;
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << value << " " << kUnits[unit];
  return text.str();
}

// Partitions of the same request but for `field`, each with its ring and the most that a rank
// sends.
std::string costs(Request request, int64_t Request::* field, const std::vector<int64_t>& values) {
  std::ostringstream text;
  for (size_t i = 0; i < values.size(); ++i) {
    request.*field = values[i];
    const Partition partition(request);
    int64_t most = 0;
    for (int64_t rank = 0; rank < request.ranks; ++rank) {
      most = std::max(most, partition.exchange_bytes(rank) + partition.ring_bytes(rank));
    }
    text << (i ? ", " : "") << values[i] << " (ring steps " << partition.ring_degree() - 1 << ", "
         << sized(most) << ")";
  }
  return text.str();
}

// The legal numbers of ranks on both sides of the one asked for, of which none is without a token.
std::vector<int64_t> nearest_world_sizes(const Request& request) {
  constexpr size_t kEachSide = 3;
  const int64_t tokens = request.img_tokens + request.txt_tokens;
  std::vector<int64_t> nearest;
  const auto gather = [&](int64_t step, size_t most) {
    int64_t ranks = request.ranks + step;
    for (; ranks >= 1 && ranks <= tokens && nearest.size() < most; ranks += step) {
      if (is_legal(ranks, request.heads, request.ranks_per_node)) nearest.push_back(ranks);
    }
  };
  gather(-1, kEachSide);
  std::reverse(nearest.begin(), nearest.end());
  gather(+1, nearest.size() + kEachSide);
  return nearest;
}

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

void check_index(const char* name, int64_t index, int64_t count) {
  if (index < 0 || index >= count) {
    std::ostringstream text;
    text << name << " must be from 0 to " << count - 1 << ", got " << index;
    refuse(text.str());
  }
}

void check_least(const char* name, int64_t value, int64_t least) {
  if (value < least) {
    std::ostringstream text;
    text << name << " must be at least " << least << ", got " << value;
    refuse(text.str());
  }
}

void check_range(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    std::ostringstream text;
    text << name << " must be from " << least << " to " << most << ", got " << value;
    refuse(text.str());
  }
}

// Bytes of V, K, Q and O of all tokens, and tokens times ranks, fit 64 bits.
constexpr int64_t kMostTokens = 1'000'000'000;  // of either stream
constexpr int64_t kMostHeads = 10'000;
constexpr int64_t kMostRowBytes = 100'000;

void check_tokens(int64_t img_tokens, int64_t txt_tokens) {
  check_range("img_tokens", img_tokens, 1, kMostTokens);
  check_range("txt_tokens", txt_tokens, 0, kMostTokens);
}

void check_counts(const Request& request) {
  check_tokens(request.img_tokens, request.txt_tokens);
  check_range("heads", request.heads, 1, kMostHeads);
  check_range("row_bytes", request.row_bytes, 1, kMostRowBytes);
  check_least("ranks", request.ranks, 1);
  check_least("ranks_per_node", request.ranks_per_node, 0);
  check_least("ulysses_degree", request.ulysses_degree, 0);
  check_least("head_chunks", request.head_chunks, 1);
  const int64_t tokens = request.img_tokens + request.txt_tokens;
  if (request.ranks > tokens) {
    std::ostringstream text;
    text << "ranks must be at most the " << tokens << " tokens, got " << request.ranks;
    refuse(text.str());
  }
}

int64_t chosen_ulysses_degree(const Request& request) {
  const int64_t asked = request.ulysses_degree;
  if (asked == 0) {
    if (!is_legal(request.ranks, request.heads, request.ranks_per_node)) {
      std::ostringstream text;
      text << "ranks must have a divisor from 2 to the " << request.heads << " heads";
      if (request.ranks_per_node > 0) {
        text << " that divides the " << request.ranks_per_node << " ranks of a node";
      }
      text << ", got " << request.ranks << "; nearest legal are, with what a rank sends per block, "
           << costs(request, &Request::ranks, nearest_world_sizes(request));
      refuse(text.str());
    }
    return default_ulysses_degree(request.ranks, request.heads, request.ranks_per_node);
  }
  const auto fits = [&](int64_t degree) {
    return degree <= request.heads && request.ranks % degree == 0 &&
           stays_in_node(degree, request.ranks, request.ranks_per_node);
  };
  if (!fits(asked)) {
    std::vector<int64_t> legal;
    for (int64_t degree = 1; degree <= std::min(request.heads, request.ranks); ++degree) {
      if (fits(degree)) legal.push_back(degree);
    }
    std::ostringstream text;
    text << "ulysses_degree must divide the " << request.ranks << " ranks";
    if (!stays_in_node(asked, request.ranks, request.ranks_per_node)) {
      text << " and the " << request.ranks_per_node << " of a node";
    }
    text << " and be at most the " << request.heads << " heads, got " << asked
         << "; legal are, with what a rank sends per block, "
         << costs(request, &Request::ulysses_degree, legal);
    refuse(text.str());
  }
  return asked;
}

}  // namespace

Partition::Partition(const Request& request) : request_(request) {
  check_counts(request);
  ulysses_ = chosen_ulysses_degree(request);
  chunks_ = std::min(request.head_chunks, request.heads / ulysses_);
}

int64_t Partition::group_of(int64_t rank) const {
  check_index("rank", rank, request_.ranks);
  return rank / ulysses_;
}

std::vector<int64_t> Partition::members(int64_t group) const {
  check_index("group", group, ring_degree());
  std::vector<int64_t> ranks;
  for (int64_t i = 0; i < ulysses_; ++i) ranks.push_back(group * ulysses_ + i);
  return ranks;
}

Shard token_shard(int64_t img_tokens, int64_t txt_tokens, int64_t ranks, int64_t rank) {
  check_tokens(img_tokens, txt_tokens);
  check_least("ranks", ranks, 1);
  check_index("rank", rank, ranks);
  const IndexRange joint = part(img_tokens + txt_tokens, ranks, rank);
  const auto img = [&](int64_t place) { return std::min(place, img_tokens); };
  const auto txt = [&](int64_t place) { return std::max<int64_t>(place - img_tokens, 0); };
  return {{img(joint.start), img(joint.stop)}, {txt(joint.start), txt(joint.stop)}};
}

Shard Partition::shard(int64_t rank) const {
  return token_shard(request_.img_tokens, request_.txt_tokens, request_.ranks, rank);
}

IndexRange Partition::heads(int64_t rank) const {
  check_index("rank", rank, request_.ranks);
  return part(request_.heads, ulysses_, rank % ulysses_);
}

IndexRange Partition::heads(int64_t rank, int64_t chunk) const {
  check_index("chunk", chunk, chunks_);
  const IndexRange all = heads(rank);
  const IndexRange within = part(all.size(), chunks_, chunk);
  return {all.start + within.start, all.start + within.stop};
}

IndexRange Partition::group_span(int64_t group) const {
  check_index("group", group, ring_degree());
  const Shard first = shard(group * ulysses_), last = shard((group + 1) * ulysses_ - 1);
  return {first.img.start + first.txt.start, last.img.stop + last.txt.stop};
}

int64_t Partition::largest_group_tokens() const {
  int64_t largest = 0;
  for (int64_t group = 0; group < ring_degree(); ++group) {
    largest = std::max(largest, group_tokens(group));
  }
  return largest;
}

std::vector<int64_t> Partition::send_rows(int64_t rank, int64_t chunk) const {
  std::vector<int64_t> rows;
  for (const int64_t peer : members(group_of(rank))) {
    rows.push_back(shard(rank).tokens() * heads(peer, chunk).size());
  }
  return rows;
}

std::vector<int64_t> Partition::receive_rows(int64_t rank, int64_t chunk) const {
  std::vector<int64_t> rows;
  for (const int64_t peer : members(group_of(rank))) {
    rows.push_back(shard(peer).tokens() * heads(rank, chunk).size());
  }
  return rows;
}

int64_t Partition::exchange_bytes(int64_t rank) const {
  const int64_t tokens = shard(rank).tokens(), ours = heads(rank).size();
  const int64_t out = 3 * tokens * (request_.heads - ours);
  const int64_t back = (group_tokens(group_of(rank)) - tokens) * ours;
  return (out + back) * request_.row_bytes;
}

int64_t Partition::ring_bytes(int64_t rank) const {
  // Those of the group after this one come last, and stay.
  const int64_t tokens = request_.img_tokens + request_.txt_tokens -
                         group_tokens((group_of(rank) + 1) % ring_degree());
  return 2 * tokens * heads(rank).size() * request_.row_bytes;
}

}  // namespace disca_rt
