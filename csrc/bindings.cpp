// The Python face of the partition and the scheduler; no logic.
#include <pybind11/chrono.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "partition.h"
#include "scheduler.h"

namespace py = pybind11;
using namespace disca_rt;

PYBIND11_MODULE(_native, module) {
  module.doc() = "Partition and scheduler of sequence parallelism; see disca_rt/parallel.";

  py::class_<IndexRange>(module, "IndexRange")
      .def_readonly("start", &IndexRange::start)
      .def_readonly("stop", &IndexRange::stop)
      .def("__len__", &IndexRange::size)
      .def("__repr__", [](const IndexRange& span) {
        return "IndexRange(" + std::to_string(span.start) + ", " + std::to_string(span.stop) + ")";
      });

  py::class_<Shard>(module, "Shard")
      .def_readonly("img", &Shard::img)
      .def_readonly("txt", &Shard::txt)
      .def_property_readonly("tokens", &Shard::tokens);

  module.def("token_shard", &token_shard, py::arg("img_tokens"), py::arg("txt_tokens"),
             py::arg("ranks"), py::arg("rank"));

  py::class_<Partition>(module, "Partition")
      .def(py::init([](int64_t img_tokens, int64_t txt_tokens, int64_t heads, int64_t ranks,
                       int64_t ranks_per_node, int64_t ulysses_degree, int64_t head_chunks,
                       int64_t row_bytes) {
             return Partition({img_tokens, txt_tokens, heads, ranks, ranks_per_node, ulysses_degree,
                               head_chunks, row_bytes});
           }),
           py::kw_only(), py::arg("img_tokens"), py::arg("txt_tokens"), py::arg("heads"),
           py::arg("ranks"), py::arg("ranks_per_node") = 0, py::arg("ulysses_degree") = 0,
           py::arg("head_chunks") = 1, py::arg("row_bytes") = 256)
      .def_property_readonly("img_tokens",
                             [](const Partition& p) { return p.request().img_tokens; })
      .def_property_readonly("txt_tokens",
                             [](const Partition& p) { return p.request().txt_tokens; })
      .def_property_readonly("num_heads", [](const Partition& p) { return p.request().heads; })
      .def_property_readonly("ranks", [](const Partition& p) { return p.request().ranks; })
      .def_property_readonly("row_bytes", [](const Partition& p) { return p.request().row_bytes; })
      .def_property_readonly("ulysses_degree", &Partition::ulysses_degree)
      .def_property_readonly("ring_degree", &Partition::ring_degree)
      .def_property_readonly("chunks", &Partition::chunks)
      .def("group_of", &Partition::group_of)
      .def("members", &Partition::members)
      .def("shard", &Partition::shard)
      .def("heads", py::overload_cast<int64_t>(&Partition::heads, py::const_))
      .def("heads", py::overload_cast<int64_t, int64_t>(&Partition::heads, py::const_))
      .def("group_span", &Partition::group_span)
      .def("group_tokens", &Partition::group_tokens)
      .def("send_rows", &Partition::send_rows)
      .def("receive_rows", &Partition::receive_rows)
      .def("exchange_bytes", &Partition::exchange_bytes)
      .def("ring_bytes", &Partition::ring_bytes);

  py::enum_<Slot>(module, "Slot")
      .value("V", Slot::V)
      .value("K", Slot::K)
      .value("Q", Slot::Q)
      .value("O", Slot::O);

  py::class_<Progress, std::shared_ptr<Progress>>(module, "Progress")
      .def(py::init<>())
      .def("begin", [](Progress& progress) { ++progress.begun; })
      .def_property_readonly("begun",
                             [](const Progress& progress) { return progress.begun.load(); });

  // The last one to hold a process group waits for its threads, and these may want the GIL, to drop
  // a tensor that Python made.
  py::class_<Scheduler>(module, "Scheduler", py::release_gil_before_calling_cpp_dtor())
      .def(py::init([](const Partition& partition, int64_t rank,
                       const c10::intrusive_ptr<c10d::ProcessGroup>& group,
                       const c10::intrusive_ptr<c10d::ProcessGroup>& ring, int64_t batch,
                       int64_t head_dim, at::ScalarType dtype, at::Device device,
                       std::chrono::milliseconds timeout, bool reuse_buffers,
                       std::shared_ptr<Progress> progress) {
             return std::make_unique<Scheduler>(partition, rank, group, ring,
                                                Format{batch, head_dim, dtype, device}, timeout,
                                                reuse_buffers, std::move(progress));
           }),
           py::kw_only(), py::arg("partition"), py::arg("rank"), py::arg("group"),
           py::arg("ring") = nullptr, py::arg("batch"), py::arg("head_dim"), py::arg("dtype"),
           py::arg("device"), py::arg("timeout"), py::arg("reuse_buffers") = true,
           py::arg_v("progress", std::make_shared<Progress>(), "Progress()"))
      .def_property_readonly("partition", &Scheduler::partition)
      .def_property_readonly("buffer_bytes", &Scheduler::buffer_bytes)
      .def("send", &Scheduler::send, py::call_guard<py::gil_scoped_release>())
      .def("send_packed", &Scheduler::send_packed, py::call_guard<py::gil_scoped_release>())
      .def("receive", &Scheduler::receive, py::call_guard<py::gil_scoped_release>())
      .def("send_back", &Scheduler::send_back, py::call_guard<py::gil_scoped_release>())
      .def("receive_back", &Scheduler::receive_back, py::call_guard<py::gil_scoped_release>())
      .def("pass_on", &Scheduler::pass_on, py::arg("slot"), py::arg("chunk"), py::arg("origin"),
           py::arg("heads"), py::arg("back") = false, py::call_guard<py::gil_scoped_release>())
      .def("receive_passed", &Scheduler::receive_passed, py::call_guard<py::gil_scoped_release>());
}
