// launches.h writes launches of kernels to a file and reads them again, with all device memory that their arguments point
// into, so that any launch of a program on the emulated device can be repeated without the program.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <map>
#include <string>
#include <vector>
#include "cuemu.h"

namespace cuemu {

struct Launch {
  std::string kernel;
  dim3 grid, block;
  uint64_t shared = 0, cooperative = 0;
  std::vector<std::vector<char>> params;
  std::map<uint64_t, std::vector<char>> memory;  // by the address that the arguments name it by
};

// each_pointer calls f with every place in the parameters that may hold an address: all aligned words.
template <class F> void each_pointer(std::vector<std::vector<char>>& params, F f) {
  for (auto& p : params)
    for (size_t at = 0; at + 8 <= p.size(); at += 8) f(&p[at]);
}

inline void put(FILE* f, const void* p, uint64_t n) {
  fwrite(&n, 8, 1, f);
  fwrite(p, 1, n, f);
}
inline void write(FILE* f, const Launch& l) {
  put(f, l.kernel.data(), l.kernel.size());
  fwrite(&l.grid, sizeof l.grid, 1, f);
  fwrite(&l.block, sizeof l.block, 1, f);
  uint64_t head[] = {l.shared, l.cooperative, l.params.size(), l.memory.size()};
  fwrite(head, sizeof head, 1, f);
  for (auto& p : l.params) put(f, p.data(), p.size());
  for (auto& m : l.memory) {
    fwrite(&m.first, 8, 1, f);
    put(f, m.second.data(), m.second.size());
  }
}

inline bool get(FILE* f, void* p, size_t n) { return fread(p, 1, n, f) == n; }
template <class V> bool get(FILE* f, V& v) {
  uint64_t n;
  if (!get(f, &n, 8) || n > 1ull << 30) return false;
  v.resize(n);
  return !n || get(f, &v[0], n);
}
inline bool read(FILE* f, Launch& l) {
  l = Launch();
  uint64_t head[4];
  if (!get(f, l.kernel) || !get(f, &l.grid, sizeof l.grid) || !get(f, &l.block, sizeof l.block) || !get(f, head, sizeof head)) return false;
  l.shared = head[0];
  l.cooperative = head[1];
  for (uint64_t i = 0; i < head[2]; i++) {
    l.params.emplace_back();
    if (!get(f, l.params.back())) return false;
  }
  for (uint64_t i = 0; i < head[3]; i++) {
    uint64_t at;
    if (!get(f, &at, 8) || !get(f, l.memory[at])) return false;
  }
  return true;
}
}  // namespace cuemu
