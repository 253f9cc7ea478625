// Who holds which tokens and heads, and who sends how much to whom: pure arithmetic.
//
// Sequence parallelism trades tokens for heads around attention (Ulysses, arXiv 2309.14509): a rank
// has a share of the tokens with all heads, sends each other rank that one's heads of them, and
// gets all tokens of its own heads. With more ranks than heads, groups of ranks do that and pass
// keys and values around a ring of groups (arXiv 2310.01889). A partition follows from its request
// alone, so all ranks have the same without a word between them. Knows no tensors, streams or
// processes.
#pragma once

#include <cstdint>
#include <vector>

namespace disca_rt {

// Consecutive numbers, from `start` up to but not including `stop`.
struct IndexRange {
  int64_t start = 0;
  int64_t stop = 0;
  int64_t size() const { return stop - start; }
};

// Tokens and heads, and the ranks they are divided among. Zero means: as the partition sees fit.
struct Request {
  int64_t img_tokens = 0;
  int64_t txt_tokens = 0;
  int64_t heads = 0;
  int64_t ranks = 1;
  int64_t ranks_per_node = 0;  // consecutive ones; Ulysses stays inside a node; 0: all are in one
  int64_t ulysses_degree = 0;  // ranks that trade tokens for heads; the ring has ranks / this; 0:
                               // the largest that shares heads nearly evenly
  int64_t head_chunks = 1;     // pieces a rank's heads are exchanged in, at most one per head
  int64_t row_bytes = 256;     // one head of one token: 128 values of two bytes
};

// A rank's part of both streams: these image rows, then these text rows; at most one rank has both.
struct Shard {
  IndexRange img;
  IndexRange txt;
  int64_t tokens() const { return img.size() + txt.size(); }
};

// Rank `rank`'s part of both streams among `ranks`. The joint sequence, image first, is cut into
// nearly equal spans, so that gathered tokens are in the order of one rank's attention, and sums
// are its sums. Independent of the heads: sharing out tokens alone needs no partition.
Shard token_shard(int64_t img_tokens, int64_t txt_tokens, int64_t ranks, int64_t rank);

// A rank, group or chunk that the partition does not have is a std::invalid_argument.
class Partition {
 public:
  // std::invalid_argument names what is illegal, and the world sizes that are not.
  explicit Partition(const Request& request);

  const Request& request() const { return request_; }
  int64_t ulysses_degree() const { return ulysses_; }
  int64_t ring_degree() const { return request_.ranks / ulysses_; }
  int64_t chunks() const { return chunks_; }

  // Ranks of one Ulysses group are consecutive.
  int64_t group_of(int64_t rank) const;
  std::vector<int64_t> members(int64_t group) const;

  Shard shard(int64_t rank) const;
  // All heads of `rank`, or those of one chunk of them.
  IndexRange heads(int64_t rank) const;
  IndexRange heads(int64_t rank, int64_t chunk) const;
  // Joint tokens that a group has once it has exchanged: its members' shards, one after another.
  IndexRange group_span(int64_t group) const;
  int64_t group_tokens(int64_t group) const { return group_span(group).size(); }
  int64_t largest_group_tokens() const;

  // Rows of one head each, (tokens × heads), to and from every member of the rank's group when
  // tokens are traded for heads. The way back is the same with both exchanged.
  std::vector<int64_t> send_rows(int64_t rank, int64_t chunk) const;
  std::vector<int64_t> receive_rows(int64_t rank, int64_t chunk) const;

  // What `rank` sends to others in one attention: V, K and Q out and O back, and what it passes on
  // around the ring, K and V of every group but the last.
  int64_t exchange_bytes(int64_t rank) const;
  int64_t ring_bytes(int64_t rank) const;

 private:
  Request request_;
  int64_t ulysses_ = 1;
  int64_t chunks_ = 1;
};

}  // namespace disca_rt
