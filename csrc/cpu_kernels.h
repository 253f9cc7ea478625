// The loops of the ops on a CPU, over plain memory: no PyTorch, no threads.
//
// Each works on rows `begin` to `end` of a tensor, whose elements lie together along the last axis,
// and computes in fp32. Values are fp32, or bf16 as the upper half of one.
#pragma once

#include <cstdint>

namespace disca_rt::loops {

// The type of stored values.
enum class Type { f32, bf16 };

// Rows of a tensor [batch, seq, width]: strides in elements.
struct Rows {
  void* data;
  int64_t batch_stride;
  int64_t row_stride;
};

// One vector [width] for all rows of a sample.
struct Vectors {
  const void* data;
  int64_t batch_stride;
};

// A tensor to be added to rows, and its gate. Each has a type of its own.
struct Term {
  Rows branch;
  Vectors gate;
  Type branch_type;
  Type gate_type;
};

struct Shape {
  int64_t seq;
  int64_t width;
};

// out = x + sum of gate * branch.
void gated_sum(Type type, Shape shape, Rows x, const Term* terms, int64_t count, Rows out,
               int64_t begin, int64_t end);

constexpr int64_t kWidest = 8192;  // of a row that is normalised

// normed = LayerNorm(x) * (1 + scale) + shift; `sum` gets x with the term added first, where there
// is one, which is what is normalised then.
void norm_modulate(Type type, Shape shape, Rows x, const Term* term, Vectors shift, Vectors scale,
                   Rows sum, Rows normed, int64_t begin, int64_t end);

// RMSNorm of each head of x [batch, seq, heads, width], then rotation of the rows before `rotated`
// by cos and sin [rotated, width / 2] in fp32; other rows have a weight of their own.
struct Heads {
  int64_t seq;
  int64_t heads;
  int64_t width;
  int64_t rotated;
};
void norm_rope(Type type, Heads shape, void* x, int64_t batch_stride, int64_t row_stride,
               int64_t head_stride, const void* img_weight, const void* txt_weight,
               const float* cos, const float* sin, int64_t begin, int64_t end);

// x = GELU(x) by the tanh approximation, of elements.
void gelu_tanh(Type type, void* x, int64_t begin, int64_t end);

// out = sum of coefficient * factor; factors lie `stride` elements apart.
void forecast(Type type, const void* factors, int64_t stride, const float* coefficients,
              int64_t count, void* out, int64_t begin, int64_t end);

// Divided differences of orders 0 to count - 1 that end in `newest`, in place of the older ones;
// those that are not among the `known` first ones are 0.
void finite_differences(Type type, void* factors, int64_t stride, int64_t count, const void* newest,
                        float distance, float known, int64_t begin, int64_t end);

// Heads of a tensor [batch, tokens, heads, width]: strides in elements, the last is 1.
struct HeadRows {
  void* data;
  int64_t batch_stride;
  int64_t row_stride;
  int64_t head_stride;
};

struct AttentionShape {
  int64_t heads;
  int64_t queries;
  int64_t keys;
  int64_t width;
};

constexpr int64_t kQueries = 512;  // of one item of attention
constexpr int64_t kWidestHead = 128;

// out = softmax(q k^T / sqrt(width)) v, with the keys that are `valid` [batch, keys] (null: all; no
// number where there is none), by items of kQueries queries of one head of one sample, from `begin`
// to `end` of batch * heads * ceil(queries / kQueries). Widths are at most kWidestHead.
void attention(Type type, AttentionShape shape, HeadRows q, HeadRows k, HeadRows v,
               const bool* valid, HeadRows out, int64_t begin, int64_t end);

}  // namespace disca_rt::loops
