// replay repeats launches that the emulated driver wrote to the files named (CUEMU_LAUNCHES). Built with -fsanitize=thread it
// finds missing barriers and blocks that write to the same place, with -fsanitize=undefined what C++ leaves undefined.
//
//   replay [-list] FILE...
//   replay -need KERNEL... -- FILE...    fails where one of these kernels is not among the launches
#include "launches.h"

#include <stdlib.h>
#include <string.h>
#include <algorithm>

using cuemu::Launch;

static bool repeat(Launch& l) {
  const cuemu::Kernel* k = cuemu::find_kernel(l.kernel.c_str());
  if (!k) {
    printf("%s: no such kernel\n", l.kernel.c_str());
    return false;
  }
  std::map<uint64_t, char*> now;
  for (auto& m : l.memory) {
    void* p;
    if (posix_memalign(&p, 256, std::max<size_t>(m.second.size(), 1))) abort();
    memcpy(p, m.second.data(), m.second.size());
    now[m.first] = static_cast<char*>(p);
  }
  cuemu::each_pointer(l.params, [&](char* at) {
    uint64_t p;
    memcpy(&p, at, 8);
    auto m = l.memory.upper_bound(p);
    if (m == l.memory.begin()) return;
    --m;
    if (p - m->first >= m->second.size()) return;
    p = reinterpret_cast<uint64_t>(now[m->first]) + (p - m->first);
    memcpy(at, &p, 8);
  });
  std::vector<void*> params;
  for (auto& p : l.params) params.push_back(p.data());
  std::string e = cuemu::launch(k, l.grid, l.block, l.shared, params.data(), l.cooperative);
  if (!e.empty()) printf("%s: %s\n", l.kernel.c_str(), e.c_str());
  for (auto& m : now) free(m.second);
  return e.empty();
}

int main(int argc, char** argv) {
  std::vector<std::string> need;
  bool list = false;
  int i = 1;
  if (i < argc && !strcmp(argv[i], "-list")) list = true, i++;
  if (i < argc && !strcmp(argv[i], "-need")) {
    for (i++; i < argc && strcmp(argv[i], "--"); i++) need.push_back(argv[i]);
    i++;
  }
  int bad = 0, runs = 0;
  std::map<std::string, int> seen;
  for (; i < argc; i++) {
    FILE* f = fopen(argv[i], "rb");
    if (!f) {
      perror(argv[i]);
      return 1;
    }
    Launch l;
    while (cuemu::read(f, l)) {
      seen[l.kernel]++;
      runs++;
      if (list) printf("%s %u,%u,%u x %u%s\n", l.kernel.c_str(), l.grid.x, l.grid.y, l.grid.z, l.block.x, l.cooperative ? " cooperative" : "");
      bad += !repeat(l);
    }
    fclose(f);
  }
  for (auto& name : need)
    if (!seen.count(name)) {
      printf("%s: not among the launches\n", name.c_str());
      bad++;
    }
  printf("%d launches of %zu kernels, %d failed\n", runs, seen.size(), bad);
  return bad || !runs;
}
