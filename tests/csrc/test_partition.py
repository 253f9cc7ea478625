"""C++ tests of the partition, which needs no PyTorch."""


def test_partition(run_cpp) -> None:
    assert run_cpp("tests/csrc/test_partition.cpp", "csrc/partition.cpp").endswith(" checks\n")
