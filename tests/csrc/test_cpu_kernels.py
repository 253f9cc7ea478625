"""C++ tests of the loops of the ops on a CPU, which need no PyTorch."""


def test_cpu_kernels(run_cpp) -> None:
    assert run_cpp("tests/csrc/test_cpu_kernels.cpp", "csrc/cpu_kernels.cpp").endswith(" checks\n")
