#include "cuemu.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <atomic>
#include <map>
#include <mutex>
#include <thread>
#if !defined(__x86_64__) || defined(CUEMU_UCONTEXT)
#undef CUEMU_UCONTEXT
#define CUEMU_UCONTEXT 1
#include <ucontext.h>
#endif

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define CUEMU_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
// With -DCUEMU_TSAN this file itself is compiled without -fsanitize=thread (its
// state is switched, not raced for); the kernels are compiled with it.
#ifdef CUEMU_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_write16(void*);
extern "C" void __tsan_read16(void*);
#endif

namespace cuemu {
thread_local Thread* self __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {
std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> m;
  return m;
}

#if defined(CUEMU_ASAN) || defined(CUEMU_TSAN)
constexpr size_t kStack = 256 << 10;
#else
constexpr size_t kStack = 64 << 10;
#endif

struct Copy { void* dst; const void* src; bool valid; int group; };

struct Block;
struct Fiber : Thread {
  Block* block;
  int index, lane;
#ifdef CUEMU_UCONTEXT
  ucontext_t uc;
#endif
  void* sp = nullptr;
  char* stack;
  void* fake = nullptr;  // ASan's fake stack
  void* tsan = nullptr;
  std::vector<Copy> copies;  // cp.async in flight
  int groups = 0;            // committed so far
};

struct Sync { char at[2]; unsigned gen = 0; };  // two addresses in turn, so a late leaver does not learn of the next round

struct Warp {
  Sync sync;
  unsigned live = 0, ready = 0, at_barrier = 0;
  unsigned arrived = 0, mask = 0;
  WarpFn fn = nullptr;
  void* args[32];
};

struct Block {
  const Kernel* k;
  void** params;
  std::vector<Fiber*> fibers;
  std::vector<Warp> warps;
  Sync sync;
  char start;
  int live = 0, waiting = 0;
  void* shared = nullptr;
  std::string error;
  Fiber* current = nullptr;
  Fiber main;
  unsigned rng = 1;
};

enum Order { kForward, kReverse, kRandom };
Order order() {
  static Order o = [] {
    const char* s = getenv("CUEMU_ORDER");
    return !s ? kForward : s[0] == 'r' && s[1] == 'e' ? kReverse : s[0] == 'r' ? kRandom : kForward;
  }();
  return o;
}

thread_local Block* tblock __attribute__((tls_model("initial-exec"))) = nullptr;

#ifndef CUEMU_UCONTEXT
extern "C" void cuemu_swap(void** save, void* to);
asm(R"(
.text
.globl cuemu_swap
.hidden cuemu_swap
.type cuemu_swap,@function
cuemu_swap:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuemu_swap,.-cuemu_swap
)");
#endif

void finish_switch(Fiber* f) {
#ifdef CUEMU_ASAN
  __sanitizer_finish_switch_fiber(f->fake, nullptr, nullptr);
#endif
  (void)f;
}

// go switches from the running fiber to another one of the block.
inline void go(Block* b, Fiber* to, bool last = false) {
  Fiber* from = b->current;
  if (from == to) return;
  b->current = to;
  self = to;
#ifdef CUEMU_ASAN
  __sanitizer_start_switch_fiber(last ? nullptr : &from->fake, to->stack, to == &b->main ? 0 : kStack);
#endif
#ifdef CUEMU_TSAN
  __tsan_switch_to_fiber(to->tsan, 1);
#endif
  (void)last;
#ifdef CUEMU_UCONTEXT
  swapcontext(&from->uc, &to->uc);
#else
  cuemu_swap(&from->sp, to->sp);
#endif
  finish_switch(from);
}

int pick(Block* b, unsigned set, int from) {  // a lane of set, from `from` on
  switch (order()) {
    case kForward: {
      unsigned hi = from < 32 ? set & (~0u << from) : 0;
      return __builtin_ctz(hi ? hi : set);
    }
    case kReverse: return 31 - __builtin_clz(set);
    default: {
      b->rng = b->rng * 1664525u + 1013904223u;
      int n = (b->rng >> 16) % __builtin_popcount(set);
      while (n--) set &= set - 1;
      return __builtin_ctz(set);
    }
  }
}

// next finds who runs after the current fiber stopped; null when nobody can.
Fiber* next(Block* b) {
  int nw = (int)b->warps.size();
  int w = b->current == &b->main ? (order() == kReverse ? nw - 1 : 0) : b->current->index >> 5;
  if (order() == kRandom) {
    b->rng = b->rng * 1664525u + 1013904223u;
    w = (b->rng >> 16) % nw;
  }
  int lane = b->current == &b->main ? 0 : b->current->lane + 1;
  for (int i = 0; i < nw; i++) {
    if (b->warps[w].ready) return b->fibers[w * 32 + pick(b, b->warps[w].ready, lane)];
    lane = 0;
    w = order() == kReverse ? (w + nw - 1) % nw : (w + 1) % nw;
  }
  return nullptr;
}

void stuck(Block* b) {
  if (b->error.empty()) b->error = "deadlock: the threads left wait for a barrier or a warp operation that others never reach";
  go(b, &b->main);
}

void release_barrier(Block* b) {
  for (Warp& w : b->warps) {
    w.ready |= w.at_barrier;
    w.at_barrier = 0;
  }
  b->waiting = 0;
  b->sync.gen++;
}

// yield gives the CPU away after the current fiber was taken out of its ready set.
void yield(Block* b) {
  if (b->waiting && b->waiting == b->live) release_barrier(b);
  Fiber* f = next(b);
  if (!f) stuck(b);
  else go(b, f);
}

void entry() {
  Block* b = tblock;
  Fiber* f = b->current;
  finish_switch(f);
#ifdef CUEMU_TSAN
  __tsan_acquire(&b->start);
#endif
  b->k->call(b->k->fn, b->params);
  if (!f->copies.empty() && b->error.empty()) {
    for (Copy& c : f->copies) if (c.valid) { b->error = "a thread ended with cp.async copies not waited for"; break; }
  }
#ifdef CUEMU_TSAN
  __tsan_release(&b->start);
#endif
  Warp& w = b->warps[f->index >> 5];
  unsigned bit = 1u << f->lane;
  w.live &= ~bit;
  w.ready &= ~bit;
  b->live--;
  if (b->waiting && b->waiting == b->live) release_barrier(b);
  Fiber* n = b->live ? next(b) : &b->main;
  if (!n) {
    if (b->error.empty()) b->error = "deadlock: threads wait for ones that have ended";
    n = &b->main;
  }
  go(b, n, true);
  abort();
}

struct Pool {  // fibers and their stacks, kept from launch to launch
  std::mutex mu;
  std::vector<Fiber*> free;
  // get appends n fibers to out.
  void get(size_t n, std::vector<Fiber*>& out) {
    std::lock_guard<std::mutex> l(mu);
    for (; n && !free.empty(); n--) {
      out.push_back(free.back());
      free.pop_back();
    }
    for (; n; n--) {
      Fiber* f = new Fiber;
      f->stack = (char*)mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (f->stack == MAP_FAILED) abort();
      out.push_back(f);
    }
  }
  void put(const std::vector<Fiber*>& in) {
    std::lock_guard<std::mutex> l(mu);
    free.insert(free.end(), in.rbegin(), in.rend());
  }
};
Pool& pool() {
  static Pool* p = new Pool;  // never destroyed: threads may still run when the process ends
  return *p;
}

std::string run_block(const Kernel* k, dim3 grid, dim3 block, dim3 bid, size_t shared, void** params) {
  Block b;
  b.k = k;
  b.params = params;
  b.rng = bid.x * 2654435761u + 12345;
  int n = block.x * block.y * block.z;
  b.warps.resize((n + 31) / 32);
  b.live = n;
  if (shared) {
    if (posix_memalign(&b.shared, 128, shared)) abort();  // exact size: ASan sees an overrun
    memset(b.shared, 0xff, shared);                       // NaNs: nothing may be read before it is written
  }
  pool().get(n, b.fibers);
  for (int i = 0; i < n; i++) {
    Fiber* f = b.fibers[i];
    f->tid = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    f->bid = bid;
    f->bdim = block;
    f->gdim = grid;
    f->block = &b;
    f->index = i;
    f->lane = i & 31;
    f->fake = nullptr;
    f->copies.clear();
    f->groups = 0;
#ifdef CUEMU_ASAN
    __asan_unpoison_memory_region(f->stack, kStack);
#endif
#ifdef CUEMU_TSAN
    if (!f->tsan) f->tsan = __tsan_create_fiber(0);
#endif
#ifdef CUEMU_UCONTEXT
    getcontext(&f->uc);
    f->uc.uc_stack.ss_sp = f->stack;
    f->uc.uc_stack.ss_size = kStack;
    f->uc.uc_link = nullptr;
    makecontext(&f->uc, entry, 0);
#else
    void** sp = (void**)(f->stack + kStack - 16);
    *--sp = nullptr;         // entry's return address
    *--sp = (void*)entry;    // popped by ret
    for (int r = 0; r < 6; r++) *--sp = nullptr;
    f->sp = sp;
#endif
    b.warps[i / 32].live |= 1u << (i & 31);
    b.warps[i / 32].ready |= 1u << (i & 31);
  }
  Block* outer = tblock;
  tblock = &b;
  b.current = &b.main;
#ifdef CUEMU_ASAN
  b.main.stack = nullptr;
  {
    // ASan wants the bounds of the stack to return to.
    pthread_attr_t a;
    void* lo;
    size_t sz;
    pthread_getattr_np(pthread_self(), &a);
    pthread_attr_getstack(&a, &lo, &sz);
    pthread_attr_destroy(&a);
    b.main.stack = (char*)lo;
  }
#endif
#ifdef CUEMU_TSAN
  b.main.tsan = __tsan_get_current_fiber();
  __tsan_release(&b.start);  // threads start after what the host did
#endif
  if (Fiber* f = next(&b)) go(&b, f);
#ifdef CUEMU_TSAN
  __tsan_acquire(&b.start);
#endif
  tblock = outer;
  self = nullptr;
  pool().put(b.fibers);
  free(b.shared);
  return b.error;
}

int worker_count() {
  const char* s = getenv("CUEMU_THREADS");
  int n = s ? atoi(s) : (int)std::thread::hardware_concurrency();
  return n < 1 ? 1 : n;
}
}  // namespace

void* dynamic_shared() { return tblock->shared; }

void syncthreads() {
  Block* b = tblock;
  Fiber* f = b->current;
  Warp& w = b->warps[f->index >> 5];
#ifdef CUEMU_TSAN
  char* sync = &b->sync.at[b->sync.gen & 1];
  __tsan_release(sync);
#endif
  w.ready &= ~(1u << f->lane);
  w.at_barrier |= 1u << f->lane;
  b->waiting++;
  yield(b);
#ifdef CUEMU_TSAN
  __tsan_acquire(sync);
#endif
}

void collective(WarpFn fn, void* arg, unsigned mask) {
  Block* b = tblock;
  Fiber* f = b->current;
  Warp& w = b->warps[f->index >> 5];
  unsigned bit = 1u << f->lane;
  int n = (int)b->fibers.size() - (f->index & ~31);
  unsigned exist = n >= 32 ? ~0u : (1u << n) - 1;
  if (!(mask & bit)) fault("a lane calls a warp operation whose mask leaves it out");
  if (mask & ~exist) mask &= exist;  // the block's last warp may be short
  if (!w.arrived) {
    w.fn = fn;
    w.mask = mask;
  } else if (w.fn != fn || w.mask != mask) {
    fault("lanes of a warp meet in different warp operations");
  }
  w.args[f->lane] = arg;
  w.arrived |= bit;
#ifdef CUEMU_TSAN
  char* sync = &w.sync.at[w.sync.gen & 1];
  __tsan_release(sync);
#endif
  if (w.arrived == w.mask) {
#ifdef CUEMU_TSAN
    __tsan_acquire(sync);
#endif
    fn(w.args, mask);
#ifdef CUEMU_TSAN
    __tsan_release(sync);
#endif
    w.sync.gen++;
    w.ready |= w.mask;
    w.arrived = 0;
    return;
  }
  w.ready &= ~bit;
  yield(b);
#ifdef CUEMU_TSAN
  __tsan_acquire(sync);
#endif
}

void fault(const char* what) {
  Block* b = tblock;
  if (b->error.empty()) {
    char s[256];
    Fiber* f = b->current;
    snprintf(s, sizeof s, "%s (block %u,%u,%u thread %u,%u,%u)", what, f->bid.x, f->bid.y, f->bid.z, f->tid.x, f->tid.y, f->tid.z);
    b->error = s;
  }
  go(b, &b->main);  // the block's other fibers are dropped
}

void check_aligned(const void* p, size_t n) {
  if ((uintptr_t)p % n) fault("misaligned address");
}

// cp.async writes as late as the program allows: until its group is waited for
// the destination holds NaNs.
void cp_async(void* dst, const void* src, bool valid) {
  check_aligned(dst, 16);
  if (valid) check_aligned(src, 16);
  memset(dst, 0xff, 16);
#ifdef CUEMU_TSAN
  __tsan_write16(dst);
#endif
  Fiber* f = tblock->current;
  f->copies.push_back({dst, src, valid, f->groups});
}
void cp_async_commit() { tblock->current->groups++; }
void cp_async_wait(int n) {
  Fiber* f = tblock->current;
  size_t i = 0;
  for (; i < f->copies.size() && f->copies[i].group < f->groups - n; i++) {
    Copy& c = f->copies[i];
    if (c.valid) memcpy(c.dst, c.src, 16);
    else memset(c.dst, 0, 16);
#ifdef CUEMU_TSAN
    if (c.valid) __tsan_read16(const_cast<void*>(c.src));
    __tsan_write16(c.dst);
#endif
  }
  f->copies.erase(f->copies.begin(), f->copies.begin() + i);
}

void add_kernel(Kernel k) { kernels()[k.name] = std::move(k); }
const Kernel* find_kernel(const char* name) {
  auto it = kernels().find(name);
  return it == kernels().end() ? nullptr : &it->second;
}

std::string launch(const Kernel* k, dim3 grid, dim3 block, size_t shared, void** params) {
  size_t total = (size_t)grid.x * grid.y * grid.z;
  pool(), order();  // made before there are several threads
  std::atomic<size_t> at{0};
  std::mutex mu;
  std::string error;
  auto work = [&] {
    for (size_t i; (i = at++) < total;) {
      dim3 bid = {(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / ((size_t)grid.x * grid.y))};
      std::string e = run_block(k, grid, block, bid, shared, params);
      if (!e.empty()) {
        std::lock_guard<std::mutex> l(mu);
        if (error.empty()) error = e;
        at = total;
      }
    }
  };
  size_t nt = worker_count();
  if (nt > total) nt = total;
  std::vector<std::thread> ts;
  for (size_t i = 1; i < nt; i++) ts.emplace_back(work);
  work();
  for (auto& t : ts) t.join();
  return error;
}
}  // namespace cuemu
