// CHECK(condition): counted where it holds, and the end of the program where it does not.
#pragma once

#include <atomic>
#include <cstdio>
#include <cstdlib>

inline std::atomic<int> checks = 0;

inline void check(bool holds, const char* what, const char* file, int line) {
  ++checks;
  if (holds) return;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what);
  std::_Exit(1);  // from any thread, without waiting for the others
}
#undef CHECK  // PyTorch's, which goes to its log
#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)
