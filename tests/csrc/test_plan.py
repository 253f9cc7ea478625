"""The C++ tests of the plan, which needs no PyTorch."""


def test_plan(run_cpp) -> None:
    assert run_cpp("tests/csrc/test_plan.cpp", "csrc/plan.cpp").endswith(" checks\n")
