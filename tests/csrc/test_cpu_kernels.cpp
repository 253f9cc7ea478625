// Loops over memory of their own size, so that a step outside is seen; values against double, and
// parts of the rows against all of them at once.
#include "../../csrc/cpu_kernels.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "check.h"

using namespace disca_rt::loops;

namespace {

std::mt19937 generator(0);

// Values of one type, rounded to it, in memory that ends with them.
struct Values {
  Type type;
  std::vector<float> f32;
  std::vector<uint16_t> bf16;

  Values(Type type, int64_t count) : type(type) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) push(normal(generator));
  }
  void push(float value) {
    if (type == Type::f32) return f32.push_back(value);
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bf16.push_back(static_cast<uint16_t>(bits >> 16));
  }
  void* data() { return type == Type::f32 ? static_cast<void*>(f32.data()) : bf16.data(); }
  double operator[](int64_t i) const {
    if (type == Type::f32) return f32[i];
    const uint32_t bits = uint32_t{bf16[i]} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  bool operator==(const Values& other) const { return f32 == other.f32 && bf16 == other.bf16; }
};

double digits(Type type) { return type == Type::f32 ? 4e-6 : 8e-3; }
void near(Type type, double ours, double exact) {
  CHECK(std::fabs(ours - exact) <= digits(type) * (1 + std::fabs(exact)));
}

// Calls `loop(begin, end)` over `count` rows in two parts.
template <class F>
void in_parts(int64_t count, const F& loop) {
  loop(0, count / 3);
  loop(count / 3, count);
}

void rows_are_added_and_normalised(Type type, Type other, int64_t width) {
  const int64_t batch = 2, seq = 3, count = batch * seq;
  const Shape shape{seq, width};
  Values x(type, count * width), branch(other, count * width), gate(other, batch * width);
  Values shift(type, batch * width), scale(type, batch * width);
  Values sum(type, count * width), normed(type, count * width), added(type, count * width);
  const auto rows = [&](Values& values) { return Rows{values.data(), seq * width, width}; };
  const Term terms[] = {{rows(branch), {gate.data(), width}, other, other},
                        {rows(x), {shift.data(), width}, type, type}};
  in_parts(count, [&](int64_t begin, int64_t end) {
    gated_sum(type, shape, rows(x), terms, 2, rows(added), begin, end);
    norm_modulate(type, shape, rows(x), terms, {shift.data(), width}, {scale.data(), width},
                  rows(sum), rows(normed), begin, end);
  });
  Values whole = added;
  gated_sum(type, shape, rows(x), terms, 2, rows(whole), 0, count);
  CHECK(whole == added);
  for (int64_t row = 0; row < count; ++row) {
    const int64_t first = row * width, vector = row / seq * width;
    std::vector<double> exact(width);
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < width; ++i) {
      exact[i] = x[first + i] + gate[vector + i] * branch[first + i];
      near(type, sum[first + i], exact[i]);
      near(type, added[first + i], exact[i] + shift[vector + i] * x[first + i]);
      mean += exact[i] / width;
    }
    for (double value : exact) variance += (value - mean) * (value - mean) / width;
    for (int64_t i = 0; i < width; ++i) {
      const double norm = (exact[i] - mean) / std::sqrt(variance + 1e-6);
      near(type, normed[first + i], norm * (1 + scale[vector + i]) + shift[vector + i]);
    }
  }
}

void heads_are_turned(Type type, int64_t width) {
  const int64_t batch = 2, seq = 4, heads = 3, rotated = 2, count = batch * seq;
  const int64_t row = heads * width, half = width / 2;
  Values before(type, count * row), weight(type, width), text(type, width);
  std::vector<float> cos, sin;
  for (int64_t i = 0; i < rotated * half; ++i) {
    cos.push_back(std::cos(0.3f * i));
    sin.push_back(std::sin(0.3f * i));
  }
  Values x = before;
  in_parts(count, [&](int64_t begin, int64_t end) {
    norm_rope(type, {seq, heads, width, rotated}, x.data(), seq * row, row, width, weight.data(),
              text.data(), cos.data(), sin.data(), begin, end);
  });
  for (int64_t first = 0; first < count * row; first += width) {
    const int64_t token = first / row % seq;
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += before[first + i] * before[first + i] / width;
    const auto norm = [&](int64_t i) {
      return before[first + i] / std::sqrt(squares + 1e-6) *
             (token < rotated ? weight[i] : text[i]);
    };
    for (int64_t i = 0; i < width; i += 2) {
      const bool turns = token < rotated;
      const double c = turns ? cos[token * half + i / 2] : 1,
                   s = turns ? sin[token * half + i / 2] : 0;
      near(type, x[first + i], norm(i) * c - norm(i + 1) * s);
      near(type, x[first + i + 1], norm(i + 1) * c + norm(i) * s);
    }
  }
}

void gelu_is_its_formula(Type type) {
  Values before(type, 1003);
  Values x = before, whole = before;
  in_parts(1003, [&](int64_t begin, int64_t end) { gelu_tanh(type, x.data(), begin, end); });
  gelu_tanh(type, whole.data(), 0, 1003);
  CHECK(whole == x);
  for (int64_t i = 0; i < 1003; ++i) {
    const double z = before[i], inner = 0.79788456080286536 * (z + 0.044715 * z * z * z);
    near(type, x[i], 0.5 * z * (1 + std::tanh(inner)));
  }
}

void factors_are_differences(Type type, int64_t known) {
  const int64_t size = 259, terms = 3;
  Values before(type, terms * size), newest(type, size), out(type, size);
  Values factors = before;
  const float coefficients[] = {1.0f, -2.0f, 0.5f};
  in_parts(size, [&](int64_t begin, int64_t end) {
    finite_differences(type, factors.data(), size, terms, newest.data(), 2.0f, float(known), begin,
                       end);
    forecast(type, factors.data(), size, coefficients, terms, out.data(), begin, end);
  });
  for (int64_t i = 0; i < size; ++i) {
    double newer = newest[i], total = 0;
    for (int64_t order = 0; order < terms; ++order) {
      const double factor = factors[order * size + i];
      near(type, factor, newer);
      total += coefficients[order] * factor;
      newer = order + 1 < known ? (newer - before[order * size + i]) / 2 : 0;
    }
    near(type, out[i], total);
  }
}

// Heads lie side by side in a row, as they do after the projection.
void heads_attend(Type type, int64_t width, int64_t keys, bool is_padded) {
  const int64_t batch = 2, heads = 3, queries = 5, row = heads * width;
  Values q(type, batch * queries * row), out = q;
  Values k(type, batch * keys * row), v(type, batch * keys * row);
  const auto rows = [&](Values& values, int64_t count) {
    return HeadRows{values.data(), count * row, row, width};
  };
  const auto valid = std::make_unique<bool[]>(batch * keys);
  for (int64_t i = 0; i < batch * keys; ++i) valid[i] = !is_padded || i % keys == 0 || i % 3 != 1;
  in_parts(batch * heads, [&](int64_t begin, int64_t end) {
    attention(type, {heads, queries, keys, width}, rows(q, queries), rows(k, keys), rows(v, keys),
              is_padded ? valid.get() : nullptr, rows(out, queries), begin, end);
  });
  for (int64_t i = 0; i < batch * queries * heads; ++i) {
    const int64_t sample = i / (queries * heads), head = i % heads;
    std::vector<double> weights(keys), exact(width);
    double sum = 0;
    for (int64_t key = 0; key < keys; ++key) {
      const int64_t first = ((sample * keys + key) * heads + head) * width;
      double score = 0;
      for (int64_t j = 0; j < width; ++j) score += q[i * width + j] * k[first + j];
      weights[key] = valid[sample * keys + key] ? std::exp(score / std::sqrt(double(width))) : 0;
      sum += weights[key];
      for (int64_t j = 0; j < width; ++j) exact[j] += weights[key] * v[first + j];
    }
    for (int64_t j = 0; j < width; ++j) near(type, out[i * width + j], exact[j] / sum);
  }
}

}  // namespace

int main() {
  for (const Type type : {Type::f32, Type::bf16}) {
    for (const Type other : {Type::f32, Type::bf16}) {
      for (const int64_t width : {1, 7, 112, 128, 129, 300}) {
        rows_are_added_and_normalised(type, other, width);
      }
    }
    for (const int64_t width : {2, 14, 64, 128}) heads_are_turned(type, width);
    gelu_is_its_formula(type);
    for (const int64_t known : {1, 2, 3}) factors_are_differences(type, known);
    for (const int64_t width : {1, 14, 33, 128}) {
      for (const int64_t keys : {1, 17, 600}) {
        for (const bool is_padded : {false, true}) heads_attend(type, width, keys, is_padded);
      }
    }
  }
  std::printf("%d checks\n", checks.load());
}
