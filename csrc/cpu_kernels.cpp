#include "cpu_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

// A copy of a function for each level of x86-64, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONED
#endif
#define INLINED inline __attribute__((always_inline))

namespace disca_rt::loops {
namespace {

constexpr float kEps = 1e-6f;  // NORM_EPS of kernels/reference.py
constexpr float kLog2E = 1.44269504f;
constexpr int64_t kTile = 128;  // values that stay in registers and the nearest cache

struct BFloat16 {
  uint16_t bits;
};

INLINED float load(const float* p) { return *p; }
INLINED float load(const BFloat16* p) {
  const uint32_t bits = uint32_t{p->bits} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
INLINED void store(float* p, float value) { *p = value; }
INLINED void store(BFloat16* p, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  p->bits = static_cast<uint16_t>(value != value ? 0x7fc0 : rounded);
}

template <class T>
INLINED const T* row_of(const Rows& rows, int64_t batch, int64_t row) {
  return static_cast<const T*>(rows.data) + batch * rows.batch_stride + row * rows.row_stride;
}
template <class T>
INLINED T* row_into(const Rows& rows, int64_t batch, int64_t row) {
  return static_cast<T*>(rows.data) + batch * rows.batch_stride + row * rows.row_stride;
}
template <class T>
INLINED const T* vector_of(const Vectors& vectors, int64_t batch) {
  return static_cast<const T*>(vectors.data) + batch * vectors.batch_stride;
}

template <class B, class G>
INLINED void add_term(float* total, const B* branch, const G* gate, int64_t count) {
  for (int64_t i = 0; i < count; ++i) total[i] += load(gate + i) * load(branch + i);
}

INLINED void add_term(float* total, const Term& term, int64_t batch, int64_t row, int64_t first,
                      int64_t count) {
  const bool is_f32 = term.branch_type == Type::f32, gate_is_f32 = term.gate_type == Type::f32;
  const float* branch = row_of<float>(term.branch, batch, row) + first;
  const BFloat16* narrow = row_of<BFloat16>(term.branch, batch, row) + first;
  const float* gate = vector_of<float>(term.gate, batch) + first;
  const BFloat16* narrow_gate = vector_of<BFloat16>(term.gate, batch) + first;
  if (is_f32 && gate_is_f32) {
    add_term(total, branch, gate, count);
  } else if (is_f32) {
    add_term(total, branch, narrow_gate, count);
  } else if (gate_is_f32) {
    add_term(total, narrow, gate, count);
  } else {
    add_term(total, narrow, narrow_gate, count);
  }
}

template <class T>
INLINED void gated_sum_of(Shape shape, Rows x, const Term* terms, int64_t count, Rows out,
                          int64_t begin, int64_t end) {
  for (int64_t each = begin; each < end; ++each) {
    const int64_t batch = each / shape.seq, row = each % shape.seq;
    const T* in = row_of<T>(x, batch, row);
    T* into = row_into<T>(out, batch, row);
    for (int64_t first = 0; first < shape.width; first += kTile) {
      const int64_t length = std::min(kTile, shape.width - first);
      float total[kTile];
      for (int64_t i = 0; i < length; ++i) total[i] = load(in + first + i);
      for (int64_t k = 0; k < count; ++k) add_term(total, terms[k], batch, row, first, length);
      for (int64_t i = 0; i < length; ++i) store(into + first + i, total[i]);
    }
  }
}

template <class T>
INLINED void norm_modulate_of(Shape shape, Rows x, const Term* term, Vectors shift, Vectors scale,
                              Rows sum, Rows normed, int64_t begin, int64_t end) {
  float values[kWidest];
  const int64_t width = shape.width;
  for (int64_t each = begin; each < end; ++each) {
    const int64_t batch = each / shape.seq, row = each % shape.seq;
    const T* in = row_of<T>(x, batch, row);
    for (int64_t i = 0; i < width; ++i) values[i] = load(in + i);
    if (term != nullptr) {
      add_term(values, *term, batch, row, 0, width);
      T* into = row_into<T>(sum, batch, row);
      for (int64_t i = 0; i < width; ++i) store(into + i, values[i]);
    }
    float mean = 0, variance = 0;
    for (int64_t i = 0; i < width; ++i) mean += values[i];
    mean /= width;
    for (int64_t i = 0; i < width; ++i) variance += (values[i] - mean) * (values[i] - mean);
    const float factor = 1.0f / std::sqrt(variance / width + kEps);
    const T* add = vector_of<T>(shift, batch);
    const T* times = vector_of<T>(scale, batch);
    T* into = row_into<T>(normed, batch, row);
    for (int64_t i = 0; i < width; ++i) {
      store(into + i, (values[i] - mean) * factor * (1.0f + load(times + i)) + load(add + i));
    }
  }
}

template <class T>
INLINED void norm_rope_of(Heads shape, T* x, int64_t batch_stride, int64_t row_stride,
                          int64_t head_stride, const T* img_weight, const T* txt_weight,
                          const float* cos, const float* sin, int64_t begin, int64_t end) {
  const int64_t width = shape.width, half = width / 2;
  for (int64_t each = begin; each < end; ++each) {
    const int64_t batch = each / shape.seq, row = each % shape.seq;
    const bool turns = row < shape.rotated;
    const T* weight = turns ? img_weight : txt_weight;
    const float* cosines = cos + row * half;
    const float* sines = sin + row * half;
    for (int64_t head = 0; head < shape.heads; ++head) {
      T* values = x + batch * batch_stride + row * row_stride + head * head_stride;
      float squares = 0;
      for (int64_t i = 0; i < width; ++i) squares += load(values + i) * load(values + i);
      const float factor = 1.0f / std::sqrt(squares / width + kEps);
      if (!turns) {
        for (int64_t i = 0; i < width; ++i) {
          store(values + i, load(values + i) * factor * load(weight + i));
        }
        continue;
      }
      for (int64_t i = 0; i < half; ++i) {
        const float even = load(values + 2 * i) * factor * load(weight + 2 * i);
        const float odd = load(values + 2 * i + 1) * factor * load(weight + 2 * i + 1);
        store(values + 2 * i, even * cosines[i] - odd * sines[i]);
        store(values + 2 * i + 1, odd * cosines[i] + even * sines[i]);
      }
    }
  }
}

// 2^x for x at most 0, within 2 units in the last place: 2^n times a polynomial in the rest.
INLINED float exp2_of_negative(float x) {
  const float clamped = x < -125.0f ? -125.0f : x;
  const float whole = std::floor(clamped + 0.5f);
  const float exponent = whole >= -125.0f ? whole : -125.0f;  // a number where x is none
  const float rest = (clamped - whole) * 0.693147181f;
  float poly = 1.9875691500e-4f;
  poly = poly * rest + 1.3981999507e-3f;
  poly = poly * rest + 8.3334519073e-3f;
  poly = poly * rest + 4.1665795894e-2f;
  poly = poly * rest + 1.6666665459e-1f;
  poly = poly * rest + 5.0000001201e-1f;
  poly = poly * rest * rest + rest + 1.0f;
  const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(exponent) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return poly * power;
}

template <class T>
INLINED void gelu_tanh_of(T* x, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const float value = load(x + i);
    const float inner = 0.7978845608f * (value + 0.044715f * value * value * value);
    const float low = exp2_of_negative(-2.0f * kLog2E * std::fabs(inner));
    // x (1 + tanh(inner)) / 2 = x / (1 + exp(-2 inner)), which loses no digits on either side.
    store(x + i, value * (inner < 0 ? low : 1.0f) / (1.0f + low));
  }
}

template <class T>
INLINED void forecast_of(const T* factors, int64_t stride, const float* coefficients, int64_t count,
                         T* out, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t length = std::min(kTile, end - first);
    float total[kTile] = {};
    for (int64_t k = 0; k < count; ++k) {
      const T* factor = factors + k * stride + first;
      for (int64_t i = 0; i < length; ++i) total[i] += coefficients[k] * load(factor + i);
    }
    for (int64_t i = 0; i < length; ++i) store(out + first + i, total[i]);
  }
}

template <class T>
INLINED void finite_differences_of(T* factors, int64_t stride, int64_t count, const T* newest,
                                   float distance, float known, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += kTile) {
    const int64_t length = std::min(kTile, end - first);
    float newer[kTile];
    for (int64_t i = 0; i < length; ++i) newer[i] = load(newest + first + i);
    for (int64_t order = 0; order < count; ++order) {
      T* factor = factors + order * stride + first;
      const bool goes_on = known > order + 1;
      for (int64_t i = 0; i < length; ++i) {
        const float difference = goes_on ? (newer[i] - load(factor + i)) / distance : 0.0f;
        store(factor + i, newer[i]);
        newer[i] = difference;
      }
    }
  }
}

// A vector of keys. A machine with narrower ones takes several.
constexpr int64_t kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

constexpr int64_t kRows = 4;    // queries that share what is loaded of the keys
constexpr int64_t kKeys = 512;  // of a tile, whose scores stay in the nearest cache
constexpr int64_t kKeyVectors = kKeys / kLanes;
constexpr int64_t kWidestParts = kWidestHead / kLanes;

// Keys and values of a tile. Keys are in vectors of keys: vector j of column i is k[j * width + i].
// A key's values are `parts` vectors of their own, padded with 0. Keys past `count` are 0.
struct KeyTile {
  int64_t parts;
  int64_t vectors;
  int64_t count;
  Lanes k[kWidestHead * kKeyVectors];
  Lanes v[kKeys * kWidestParts];

  float& key(int64_t number, int64_t i, int64_t width) {
    return reinterpret_cast<float*>(&k[number / kLanes * width + i])[number % kLanes];
  }
  float* values(int64_t number) { return reinterpret_cast<float*>(&v[number * parts]); }
};

// Fills `tile` with the next valid keys from `first` on; returns where it has stopped.
template <class T>
INLINED int64_t fill_tile(KeyTile& tile, int64_t width, const T* k, int64_t k_stride, const T* v,
                          int64_t v_stride, const bool* valid, int64_t first, int64_t keys) {
  int64_t count = 0, key = first;
  for (; key < keys && count < kKeys; ++key) {
    if (valid != nullptr && !valid[key]) continue;
    const T* k_row = k + key * k_stride;
    const T* v_row = v + key * v_stride;
    float* values = tile.values(count);
    for (int64_t i = 0; i < width; ++i) tile.key(count, i, width) = load(k_row + i);
    for (int64_t i = 0; i < width; ++i) values[i] = load(v_row + i);
    for (int64_t i = width; i < tile.parts * kLanes; ++i) values[i] = 0;
    ++count;
  }
  tile.count = count;
  tile.vectors = (count + kLanes - 1) / kLanes;
  for (int64_t lane = count; lane < tile.vectors * kLanes; ++lane) {
    for (int64_t i = 0; i < width; ++i) tile.key(lane, i, width) = 0;
    for (int64_t i = 0; i < tile.parts * kLanes; ++i) tile.values(lane)[i] = 0;
  }
  return key;
}

// Queries of an item, scaled, `width` apart, and what is known of their results so far.
struct Queries {
  float q[kQueries * kWidestHead];
  Lanes out[kQueries * kWidestParts];
  float largest[kQueries];
  float sum[kQueries];
};

// Scores of kRows queries with `count` vectors of keys.
template <int64_t count>
INLINED void score(Lanes (*scores)[kKeyVectors], const float* q, const Lanes* k, int64_t width) {
  Lanes total[kRows][count] = {};
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = 0; j < count; ++j) {
      const Lanes keys = k[j * width + i];
      for (int64_t r = 0; r < kRows; ++r) total[r][j] += q[r * width + i] * keys;
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t j = 0; j < count; ++j) scores[r][j] = total[r][j];
  }
}

// `count` vectors of every key's values, weighed for kRows queries, are added to `out`. Two keys at
// a time have sums of their own, so that none waits for the other.
template <int64_t count>
INLINED void weigh(Lanes* out, const Lanes (*scores)[kKeyVectors], const Lanes* v,
                   const KeyTile& tile) {
  Lanes total[2][kRows][count] = {};
  for (int64_t key = 0; key < tile.vectors * kLanes; key += 2) {
    for (int64_t one = 0; one < 2; ++one) {
      for (int64_t i = 0; i < count; ++i) {
        const Lanes values = v[(key + one) * tile.parts + i];
        for (int64_t r = 0; r < kRows; ++r) {
          total[one][r][i] += reinterpret_cast<const float*>(scores[r])[key + one] * values;
        }
      }
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t i = 0; i < count; ++i) out[r * tile.parts + i] += total[0][r][i] + total[1][r][i];
  }
}

INLINED float largest_of(const Lanes& lanes) {
  float values[kLanes], most;
  std::memcpy(values, &lanes, sizeof values);
  most = values[0];
  for (int64_t i = 1; i < kLanes; ++i) most = values[i] > most ? values[i] : most;
  return most;
}

constexpr float kLowest = -1e30f;  // of a score; the first tile's are larger

// Scores of one query to weights, their sum and the largest; `out` follows the latter.
INLINED void soften(Lanes* scores, const KeyTile& tile, float& largest, float& sum, Lanes* out) {
  float* row = reinterpret_cast<float*>(scores);
  for (int64_t i = tile.count; i < tile.vectors * kLanes; ++i) row[i] = kLowest;
  Lanes most_of_lanes = scores[0];
  for (int64_t j = 1; j < tile.vectors; ++j) {
    most_of_lanes = scores[j] > most_of_lanes ? scores[j] : most_of_lanes;
  }
  const float most = std::max(largest, largest_of(most_of_lanes));
  float total = 0;
  for (int64_t i = 0; i < tile.vectors * kLanes; ++i) row[i] = exp2_of_negative(row[i] - most);
  for (int64_t i = 0; i < tile.vectors * kLanes; ++i) total += row[i];
  const float earlier = exp2_of_negative(largest - most);
  largest = most;
  sum = sum * earlier + total;
  for (int64_t i = 0; i < tile.parts; ++i) out[i] *= earlier;
}

INLINED void attend_tile(Queries& queries, int64_t first, const KeyTile& tile, int64_t width) {
  Lanes scores[kRows][kKeyVectors];
  const float* q = queries.q + first * width;
  Lanes* out = queries.out + first * tile.parts;
  int64_t j = 0;
  for (; j + 2 <= tile.vectors; j += 2) {
    score<2>(reinterpret_cast<Lanes(*)[kKeyVectors]>(&scores[0][j]), q, tile.k + j * width, width);
  }
  if (j < tile.vectors) {
    score<1>(reinterpret_cast<Lanes(*)[kKeyVectors]>(&scores[0][j]), q, tile.k + j * width, width);
  }
  for (int64_t r = 0; r < kRows; ++r) {
    soften(scores[r], tile, queries.largest[first + r], queries.sum[first + r],
           out + r * tile.parts);
  }
  int64_t i = 0;
  for (; i + 2 <= tile.parts; i += 2) weigh<2>(out + i, scores, tile.v + i, tile);
  if (i < tile.parts) weigh<1>(out + i, scores, tile.v + i, tile);
}

template <class T>
INLINED const T* head_of(const HeadRows& rows, int64_t batch, int64_t head) {
  return static_cast<const T*>(rows.data) + batch * rows.batch_stride + head * rows.head_stride;
}

template <class T>
INLINED void attention_of(AttentionShape shape, HeadRows q, HeadRows k, HeadRows v,
                          const bool* valid, HeadRows out, int64_t begin, int64_t end) {
  const auto tile = std::make_unique_for_overwrite<KeyTile>();
  const auto queries = std::make_unique_for_overwrite<Queries>();
  tile->parts = (shape.width + kLanes - 1) / kLanes;
  const int64_t width = shape.width, items = (shape.queries + kQueries - 1) / kQueries;
  const float scale = kLog2E / std::sqrt(static_cast<float>(width));
  for (int64_t item = begin; item < end; ++item) {
    const int64_t head = item / items % shape.heads, batch = item / items / shape.heads;
    const int64_t first = item % items * kQueries;
    const int64_t count = std::min(kQueries, shape.queries - first);
    const int64_t whole = (count + kRows - 1) / kRows * kRows;  // some are worked on twice
    const T* q_rows = head_of<T>(q, batch, head) + first * q.row_stride;
    for (int64_t row = 0; row < whole; ++row) {
      const T* values = q_rows + std::min(row, count - 1) * q.row_stride;
      for (int64_t i = 0; i < width; ++i) queries->q[row * width + i] = load(values + i) * scale;
      for (int64_t i = 0; i < tile->parts; ++i) queries->out[row * tile->parts + i] = Lanes{};
      queries->largest[row] = kLowest;
      queries->sum[row] = 0;
    }
    for (int64_t key = 0; key < shape.keys;) {
      key = fill_tile(*tile, width, head_of<T>(k, batch, head), k.row_stride,
                      head_of<T>(v, batch, head), v.row_stride,
                      valid == nullptr ? nullptr : valid + batch * shape.keys, key, shape.keys);
      for (int64_t row = 0; row < whole; row += kRows) attend_tile(*queries, row, *tile, width);
    }
    T* into = const_cast<T*>(head_of<T>(out, batch, head)) + first * out.row_stride;
    for (int64_t row = 0; row < count; ++row) {
      const float factor = 1.0f / queries->sum[row];
      const float* values = reinterpret_cast<const float*>(&queries->out[row * tile->parts]);
      for (int64_t i = 0; i < width; ++i)
        store(into + row * out.row_stride + i, values[i] * factor);
    }
  }
}

}  // namespace

// Templates have no clones: each type has functions of its own.
#define FOR_BOTH(name, parameters, f32, bf16) \
  CLONED void name##_f32 parameters { f32; }  \
  CLONED void name##_bf16 parameters { bf16; }

FOR_BOTH(gated_sum,
         (Shape shape, Rows x, const Term* terms, int64_t count, Rows out, int64_t begin,
          int64_t end),
         gated_sum_of<float>(shape, x, terms, count, out, begin, end),
         gated_sum_of<BFloat16>(shape, x, terms, count, out, begin, end))
void gated_sum(Type type, Shape shape, Rows x, const Term* terms, int64_t count, Rows out,
               int64_t begin, int64_t end) {
  (type == Type::f32 ? gated_sum_f32 : gated_sum_bf16)(shape, x, terms, count, out, begin, end);
}

FOR_BOTH(norm_modulate,
         (Shape shape, Rows x, const Term* term, Vectors shift, Vectors scale, Rows sum,
          Rows normed, int64_t begin, int64_t end),
         norm_modulate_of<float>(shape, x, term, shift, scale, sum, normed, begin, end),
         norm_modulate_of<BFloat16>(shape, x, term, shift, scale, sum, normed, begin, end))
void norm_modulate(Type type, Shape shape, Rows x, const Term* term, Vectors shift, Vectors scale,
                   Rows sum, Rows normed, int64_t begin, int64_t end) {
  (type == Type::f32 ? norm_modulate_f32 : norm_modulate_bf16)(shape, x, term, shift, scale, sum,
                                                               normed, begin, end);
}

FOR_BOTH(norm_rope,
         (Heads shape, void* x, int64_t batch_stride, int64_t row_stride, int64_t head_stride,
          const void* img_weight, const void* txt_weight, const float* cos, const float* sin,
          int64_t begin, int64_t end),
         norm_rope_of(shape, static_cast<float*>(x), batch_stride, row_stride, head_stride,
                      static_cast<const float*>(img_weight), static_cast<const float*>(txt_weight),
                      cos, sin, begin, end),
         norm_rope_of(shape, static_cast<BFloat16*>(x), batch_stride, row_stride, head_stride,
                      static_cast<const BFloat16*>(img_weight),
                      static_cast<const BFloat16*>(txt_weight), cos, sin, begin, end))
void norm_rope(Type type, Heads shape, void* x, int64_t batch_stride, int64_t row_stride,
               int64_t head_stride, const void* img_weight, const void* txt_weight,
               const float* cos, const float* sin, int64_t begin, int64_t end) {
  (type == Type::f32 ? norm_rope_f32 : norm_rope_bf16)(shape, x, batch_stride, row_stride,
                                                       head_stride, img_weight, txt_weight, cos,
                                                       sin, begin, end);
}

FOR_BOTH(gelu_tanh, (void* x, int64_t begin, int64_t end),
         gelu_tanh_of(static_cast<float*>(x), begin, end),
         gelu_tanh_of(static_cast<BFloat16*>(x), begin, end))
void gelu_tanh(Type type, void* x, int64_t begin, int64_t end) {
  (type == Type::f32 ? gelu_tanh_f32 : gelu_tanh_bf16)(x, begin, end);
}

FOR_BOTH(forecast,
         (const void* factors, int64_t stride, const float* coefficients, int64_t count, void* out,
          int64_t begin, int64_t end),
         forecast_of(static_cast<const float*>(factors), stride, coefficients, count,
                     static_cast<float*>(out), begin, end),
         forecast_of(static_cast<const BFloat16*>(factors), stride, coefficients, count,
                     static_cast<BFloat16*>(out), begin, end))
void forecast(Type type, const void* factors, int64_t stride, const float* coefficients,
              int64_t count, void* out, int64_t begin, int64_t end) {
  (type == Type::f32 ? forecast_f32 : forecast_bf16)(factors, stride, coefficients, count, out,
                                                     begin, end);
}

FOR_BOTH(finite_differences,
         (void* factors, int64_t stride, int64_t count, const void* newest, float distance,
          float known, int64_t begin, int64_t end),
         finite_differences_of(static_cast<float*>(factors), stride, count,
                               static_cast<const float*>(newest), distance, known, begin, end),
         finite_differences_of(static_cast<BFloat16*>(factors), stride, count,
                               static_cast<const BFloat16*>(newest), distance, known, begin, end))
void finite_differences(Type type, void* factors, int64_t stride, int64_t count, const void* newest,
                        float distance, float known, int64_t begin, int64_t end) {
  (type == Type::f32 ? finite_differences_f32 : finite_differences_bf16)(
      factors, stride, count, newest, distance, known, begin, end);
}

FOR_BOTH(attention,
         (AttentionShape shape, HeadRows q, HeadRows k, HeadRows v, const bool* valid, HeadRows out,
          int64_t begin, int64_t end),
         attention_of<float>(shape, q, k, v, valid, out, begin, end),
         attention_of<BFloat16>(shape, q, k, v, valid, out, begin, end))
void attention(Type type, AttentionShape shape, HeadRows q, HeadRows k, HeadRows v,
               const bool* valid, HeadRows out, int64_t begin, int64_t end) {
  (type == Type::f32 ? attention_f32 : attention_bf16)(shape, q, k, v, valid, out, begin, end);
}

}  // namespace disca_rt::loops
