// The ops of `kernels/native.py` on tensors: checks, strides and threads around the loops of
// cpu_kernels.cpp. One that is not for these loops (another device or dtype, a gradient wanted, a
// tensor that stands for another, a dispatch mode that wants to see PyTorch's operators) gives
// None, and nothing has been done then. A profiler sees each by name.
#include <ATen/Parallel.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/types.h>

#include <optional>
#include <vector>

#include "cpu_kernels.h"

namespace py = pybind11;
namespace loops = disca_rt::loops;
using at::Tensor;
using loops::HeadRows, loops::Heads, loops::Rows, loops::Shape, loops::Term, loops::Type,
    loops::Vectors;
using Result = std::optional<Tensor>;

namespace {

constexpr int64_t kGrain = 16384;  // values that are worth a thread
constexpr int64_t kMaxTerms = 512;

bool is_plain(const Tensor& x) {
  return x.device().is_cpu() && x.layout() == at::kStrided && !at::isTensorSubclassLike(x) &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) &&
         !(at::GradMode::is_enabled() && x.requires_grad()) && !x.is_neg();
}

Type type_of(const Tensor& x) { return x.scalar_type() == at::kFloat ? Type::f32 : Type::bf16; }

// Rows [B, S, C] whose values lie together.
bool are_rows(const Tensor& x) {
  return is_plain(x) && x.dim() == 3 && (x.stride(2) == 1 || x.size(2) == 1);
}

bool are_rows_like(const Tensor& x, const Tensor& like) {
  return are_rows(x) && x.sizes() == like.sizes();
}

// Vectors [B, C] for rows [B, S, C].
bool are_vectors(const Tensor& x, const Tensor& rows) {
  return is_plain(x) && x.dim() == 2 && x.size(0) == rows.size(0) && x.size(1) == rows.size(2) &&
         (x.stride(1) == 1 || x.size(1) == 1);
}

Rows rows(const Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1)}; }
Vectors vectors(const Tensor& x) { return {x.const_data_ptr(), x.stride(0)}; }
Shape shape(const Tensor& x) { return {x.size(1), x.size(2)}; }

std::optional<Term> term(const Tensor& branch, const Tensor& gate, const Tensor& x) {
  if (!are_rows_like(branch, x) || !are_vectors(gate, x)) return std::nullopt;
  return Term{rows(branch), vectors(gate), type_of(branch), type_of(gate)};
}

// `out`, where it is fit for a result like `x`, or new memory.
std::optional<Tensor> into(const std::optional<Tensor>& out, const Tensor& x) {
  if (!out.has_value()) return at::empty_like(x, at::MemoryFormat::Contiguous);
  if (!are_rows_like(*out, x) || out->scalar_type() != x.scalar_type()) return std::nullopt;
  return out;
}

// Runs `work(begin, end)` over `count` items of `values` values each, in PyTorch's threads. A
// profiler sees it as an operator called `name`.
template <class F>
void in_threads(const char* name, int64_t count, int64_t values, const F& work) {
  RECORD_FUNCTION(name, c10::ArrayRef<const c10::IValue>{});
  at::parallel_for(0, count, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, values)), work);
}

template <class F>
void over_rows(const char* name, const Tensor& x, const F& work) {
  in_threads(name, x.size(0) * x.size(1), x.size(2), work);
}

Result gated_sum(const Tensor& x, const std::vector<Tensor>& branches_and_gates,
                 const std::optional<Tensor>& out) {
  const size_t count = branches_and_gates.size() / 2;
  if (!are_rows(x) || count == 0 || count > kMaxTerms) return std::nullopt;
  std::vector<Term> terms;
  terms.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const auto each = term(branches_and_gates[2 * i], branches_and_gates[2 * i + 1], x);
    if (!each.has_value()) return std::nullopt;
    terms.push_back(*each);
  }
  const auto result = into(out, x);
  if (result.has_value()) {
    over_rows("native::gated_sum", x, [&](int64_t begin, int64_t end) {
      loops::gated_sum(type_of(x), shape(x), rows(x), terms.data(), terms.size(), rows(*result),
                       begin, end);
    });
  }
  return result;
}

bool fits_norm(const Tensor& x, const Tensor& shift, const Tensor& scale) {
  return are_rows(x) && x.size(2) <= loops::kWidest && are_vectors(shift, x) &&
         are_vectors(scale, x) && shift.scalar_type() == x.scalar_type() &&
         scale.scalar_type() == x.scalar_type();
}

Result layer_norm_modulate(const Tensor& x, const Tensor& shift, const Tensor& scale,
                           const std::optional<Tensor>& out) {
  if (!fits_norm(x, shift, scale)) return std::nullopt;
  const auto normed = into(out, x);
  if (normed.has_value()) {
    over_rows("native::layer_norm_modulate", x, [&](int64_t begin, int64_t end) {
      loops::norm_modulate(type_of(x), shape(x), rows(x), nullptr, vectors(shift), vectors(scale),
                           Rows{}, rows(*normed), begin, end);
    });
  }
  return normed;
}

std::optional<std::pair<Tensor, Tensor>> gate_residual_layer_norm_modulate(
    const Tensor& x, const Tensor& branch, const Tensor& gate, const Tensor& shift,
    const Tensor& scale, const std::optional<Tensor>& sum_out,
    const std::optional<Tensor>& normed_out) {
  if (!fits_norm(x, shift, scale)) return std::nullopt;
  const auto added = term(branch, gate, x);
  const auto sum = into(sum_out, x), normed = into(normed_out, x);
  if (!added.has_value() || !sum.has_value() || !normed.has_value()) return std::nullopt;
  over_rows("native::gate_residual_layer_norm_modulate", x, [&](int64_t begin, int64_t end) {
    loops::norm_modulate(type_of(x), shape(x), rows(x), &*added, vectors(shift), vectors(scale),
                         rows(*sum), rows(*normed), begin, end);
  });
  return std::pair(*sum, *normed);
}

Result rms_norm_rope(const Tensor& x, const Tensor& img_weight, const Tensor& txt_weight,
                     const Tensor& cos, const Tensor& sin) {
  if (!is_plain(x) || x.dim() != 4 || x.stride(3) != 1 || x.size(3) % 2 != 0) return std::nullopt;
  for (const Tensor* weight : {&img_weight, &txt_weight}) {
    if (!is_plain(*weight) || weight->dim() != 1 || weight->size(0) != x.size(3) ||
        !weight->is_contiguous() || weight->scalar_type() != x.scalar_type()) {
      return std::nullopt;
    }
  }
  for (const Tensor* table : {&cos, &sin}) {
    if (!is_plain(*table) || table->dim() != 2 || table->size(1) != x.size(3) / 2 ||
        table->size(0) > x.size(1) || !table->is_contiguous() ||
        table->scalar_type() != at::kFloat) {
      return std::nullopt;
    }
  }
  const Heads heads{x.size(1), x.size(2), x.size(3), cos.size(0)};
  in_threads("native::rms_norm_rope", x.size(0) * x.size(1), x.size(2) * x.size(3),
             [&](int64_t begin, int64_t end) {
               loops::norm_rope(type_of(x), heads, x.data_ptr(), x.stride(0), x.stride(1),
                                x.stride(2), img_weight.const_data_ptr(),
                                txt_weight.const_data_ptr(), cos.const_data_ptr<float>(),
                                sin.const_data_ptr<float>(), begin, end);
             });
  return x;
}

Result gelu_tanh(const Tensor& x) {
  if (!is_plain(x) || !x.is_contiguous()) return std::nullopt;
  in_threads("native::gelu_tanh", x.numel(), 1, [&](int64_t begin, int64_t end) {
    loops::gelu_tanh(type_of(x), x.data_ptr(), begin, end);
  });
  return x;
}

bool are_factors(const Tensor& factors) {
  return is_plain(factors) && factors.dim() > 1 && factors.is_contiguous();
}

bool are_numbers(const Tensor& numbers, int64_t count) {
  return is_plain(numbers) && numbers.dim() == 1 && numbers.size(0) == count &&
         numbers.scalar_type() == at::kFloat && numbers.is_contiguous();
}

Result forecast(const Tensor& factors, const Tensor& coefficients) {
  if (!are_factors(factors) || !are_numbers(coefficients, factors.size(0))) return std::nullopt;
  const Tensor out = at::empty(factors.sizes().slice(1), factors.options());
  in_threads("native::forecast", out.numel(), 1, [&](int64_t begin, int64_t end) {
    loops::forecast(type_of(factors), factors.const_data_ptr(), factors.stride(0),
                    coefficients.const_data_ptr<float>(), factors.size(0), out.data_ptr(), begin,
                    end);
  });
  return out;
}

bool finite_differences(const Tensor& factors, const Tensor& newest, const Tensor& numbers) {
  if (!are_factors(factors) || !are_numbers(numbers, 2) || !is_plain(newest) ||
      newest.scalar_type() != factors.scalar_type() || newest.sizes() != factors.sizes().slice(1)) {
    return false;
  }
  const Tensor values = newest.contiguous();
  const float* scalars = numbers.const_data_ptr<float>();
  in_threads("native::finite_differences", values.numel(), 1, [&](int64_t begin, int64_t end) {
    loops::finite_differences(type_of(factors), factors.data_ptr(), factors.stride(0),
                              factors.size(0), values.const_data_ptr(), scalars[0], scalars[1],
                              begin, end);
  });
  return true;
}

bool are_heads(const Tensor& x, const Tensor& like, int64_t rows) {
  return is_plain(x) && x.scalar_type() == like.scalar_type() && x.dim() == 4 && x.stride(3) == 1 &&
         x.size(0) == like.size(0) && x.size(1) == rows && x.size(2) == like.size(2) &&
         x.size(3) == like.size(3);
}

HeadRows heads(const Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)}; }

Result attention(const Tensor& q, const Tensor& k, const Tensor& v,
                 const std::optional<Tensor>& valid) {
  if (q.dim() != 4 || k.dim() != 4 || !are_heads(q, q, q.size(1))) return std::nullopt;
  if (!are_heads(k, q, k.size(1)) || !are_heads(v, q, k.size(1))) return std::nullopt;
  if (q.size(3) > loops::kWidestHead) return std::nullopt;
  Tensor flags;
  if (valid.has_value()) {
    if (valid->scalar_type() != at::kBool || valid->dim() != 2 || valid->size(0) != q.size(0) ||
        valid->size(1) != k.size(1)) {
      return std::nullopt;
    }
    flags = valid->contiguous();
  }
  const Tensor out = at::empty(q.sizes(), q.options());
  const loops::AttentionShape shape{q.size(2), q.size(1), k.size(1), q.size(3)};
  const int64_t blocks = (shape.queries + loops::kQueries - 1) / loops::kQueries;
  const int64_t work = 4 * loops::kQueries * shape.keys * shape.width;  // of an item
  in_threads("native::attention", q.size(0) * shape.heads * blocks, work,
             [&](int64_t begin, int64_t end) {
               loops::attention(type_of(q), shape, heads(q), heads(k), heads(v),
                                valid.has_value() ? flags.const_data_ptr<bool>() : nullptr,
                                heads(out), begin, end);
             });
  return out;
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
  module.doc() = "Loops of the ops on a CPU; see kernels/native.py.";
  module.def("gated_sum", &gated_sum);
  module.def("layer_norm_modulate", &layer_norm_modulate);
  module.def("gate_residual_layer_norm_modulate", &gate_residual_layer_norm_modulate);
  module.def("rms_norm_rope", &rms_norm_rope);
  module.def("gelu_tanh", &gelu_tanh);
  module.def("attention", &attention);
  module.def("forecast", &forecast);
  module.def("finite_differences", &finite_differences);
}
