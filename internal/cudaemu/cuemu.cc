#include "../../kernels/cuda/args.h"
#include "cuemu_wgmma.h"
#include "tensormap.h"

#include <stdio.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
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
extern "C" void __tsan_write_range(void*, unsigned long);
extern "C" void __tsan_read_range(void*, unsigned long);
static void tsan_write(void* p, size_t n) { __tsan_write_range(p, n); }
static void tsan_read(const void* p, size_t n) { __tsan_read_range(const_cast<void*>(p), n); }
static void tsan_acquire(void* p) { __tsan_acquire(p); }
static void tsan_release(void* p) { __tsan_release(p); }
#else
static void tsan_write(void*, size_t) {}
static void tsan_read(const void*, size_t) {}
static void tsan_acquire(void*) {}
static void tsan_release(void*) {}
#endif

namespace cuemu {
thread_local Thread* self __attribute__((tls_model("initial-exec"))) = nullptr;

const char* setting(const char* name) {
  const char* s = getenv(name);
  return s && *s ? s : nullptr;
}

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
struct Store { void* to; uint4 v; };

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
  std::vector<Store> stores; // put_async, before their fence
};

struct Sync { char at[2]; unsigned gen = 0; };  // two addresses in turn, so a late leaver does not learn of the next round

// Sums are those of a warp in 16 rows, and Product a product to be added to them.
struct Sums {
  float* d[32];
  int columns;
  std::vector<float> c;
};
struct Product { uint64_t a, b; int sums, group; };

struct Warp {
  Sync sync;
  unsigned live = 0, ready = 0, at_barrier = 0;
  unsigned arrived = 0, mask = 0;
  WarpFn fn = nullptr;
  void* args[32];
  std::vector<Sums> sums;  // of products that nobody has waited for
  std::vector<Product> products;
  int groups = 0;  // committed so far
  bool fenced = false;
  uint64_t told = 0;  // a hash of the products
};

struct Load { TensorMap map; unsigned to; int x, y; };
struct Barrier {  // an mbarrier
  int count = 0, pending = 0;
  long tx = 0;  // bytes expected and not there
  unsigned phase = 0;
  bool fenced = false;
  Fiber* maker = nullptr;
  char sync[2] = {}, issued = 0;
  std::vector<Load> loads;
  std::vector<Fiber*> waiters;
  // token is what lies in shared memory in its place.
  unsigned long long token() const { return 0x6d62617272696572ull + phase; }
};
struct Named {  // a barrier for some of the threads
  Sync sync;
  int threads = 0;
  std::vector<Fiber*> waiters;
};

struct Watch { Fiber* f; const int* p; int v; };  // a thread that waits until *p is not v

struct Grid;
struct Block {
  const Kernel* k;
  Grid* grid;
  void** params;
  std::vector<Fiber*> fibers;
  std::vector<Warp> warps;
  Sync sync;
  char start;
  int live = 0, waiting = 0;
  void* shared = nullptr;
  size_t bytes = 0;  // of shared
  std::map<mbarrier*, Barrier> barriers;
  std::map<int, Named> named;
  std::vector<Watch> watching;
  std::atomic<bool> awake{true};
  std::string error;
  Fiber* current = nullptr;
  Fiber main;
  unsigned rng = 1;
};

// Grid is what the blocks of a launch have in common. It locks and sleeps in ways that the race detector does not know: it
// would see an order between blocks that the kernel does not make.
struct Grid {
  const bool cooperative;
  const size_t blocks;
  std::atomic<size_t> preparing;   // blocks that do not have their threads yet
  std::atomic<int> turn{0};        // grows when a block may go on
  std::atomic<bool> locked{false};
  size_t running;                  // blocks that neither wait nor have ended
  std::vector<Block*> waiting;
  std::atomic<size_t> asleep{0};   // the number of waiting
  Grid(size_t n, bool c) : cooperative(c), blocks(n), preparing(n), running(n) { waiting.reserve(n); }

  void lock() { while (locked.exchange(true)) sched_yield(); }
  void unlock() { locked = false; }
  void wake() {
    turn++;
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }
  template <class F> void sleep_until(F done) {
    for (int seen; seen = turn, !done();) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
  }
  // gather holds the blocks of a cooperative launch until all have their threads, for which they take turns.
  void gather() {
    if (!cooperative) return;
    if (!--preparing) wake();
    else sleep_until([&] { return !preparing; });
  }
  void look();
  void wait(Block* b);
  void end();
};

enum Order { kForward, kReverse, kRandom };
Order order() {
  static Order o = [] {
    const char* s = setting("CUEMU_ORDER");
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

Fiber* next_ready(Block* b) {
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

// fail notes the first error of a block, which thread f made.
void fail(Block* b, const Fiber* f, const char* what) {
  if (!b->error.empty()) return;
  char s[256];
  snprintf(s, sizeof s, "%s (block %u,%u,%u thread %u,%u,%u)", what, f->bid.x, f->bid.y, f->bid.z, f->tid.x, f->tid.y, f->tid.z);
  b->error = s;
  tsan_release(&b->start);  // for whoever reads it
}

// satisfied makes those threads of a block ready whose waiting is over, and tells whether there are any.
bool satisfied(Block* b) {
  size_t left = 0;
  for (const Watch& w : b->watching) {
    if (__atomic_load_n(w.p, __ATOMIC_SEQ_CST) == w.v) b->watching[left++] = w;
    else b->warps[w.f->index >> 5].ready |= 1u << w.f->lane;
  }
  bool any = left < b->watching.size();
  b->watching.resize(left);
  return any;
}

// look wakes the blocks that may go on. Where no block is left that could change anything, all are woken, with nothing ready.
void Grid::look() {
  size_t left = 0;
  for (Block* b : waiting) {
    if (satisfied(b)) b->awake = true;
    else waiting[left++] = b;
  }
  running += waiting.size() - left;
  if (!running)
    for (; left; running++) waiting[--left]->awake = true;
  bool any = left < waiting.size();
  waiting.resize(left);
  asleep = left;
  if (any) wake();
}
void Grid::wait(Block* b) {
  lock();
  b->awake = false;
  waiting.push_back(b);
  asleep++;
  running--;
  look();
  unlock();
  sleep_until([&] { return b->awake.load(); });
}
void Grid::end() {
  lock();
  running--;
  look();
  unlock();
}

// next finds who runs after the current fiber stopped; null when nobody can. When nobody else of the block is left to run
// the block waits as long as its threads do that called wait_while.
Fiber* next(Block* b) {
  Fiber* f = next_ready(b);
  if (f || b->watching.empty()) return f;
  Grid& g = *b->grid;
  const Fiber* who = b->watching[0].f;
  if (!satisfied(b)) {
    if (!g.cooperative && g.blocks > 1) fail(b, who, "wait_while for another block, in a launch that is not cooperative");
    else g.wait(b);
  }
  f = next_ready(b);
  if (!f) fail(b, who, "deadlock: wait_while for what no block that is left will change");
  return f;
}

void stuck(Block* b) {
  fail(b, b->current, "deadlock: the threads left wait for a barrier or a warp operation that others never reach");
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
  tsan_acquire(&b->start);
  b->k->call(b->k->fn, b->params);
  for (Copy& c : f->copies)
    if (c.valid) fail(b, f, "a thread ended with cp.async copies not waited for");
  tsan_release(&b->start);
  Warp& w = b->warps[f->index >> 5];
  unsigned bit = 1u << f->lane;
  w.live &= ~bit;
  w.ready &= ~bit;
  b->live--;
  if (b->waiting && b->waiting == b->live) release_barrier(b);
  Fiber* n = b->live ? next(b) : &b->main;
  if (!n) {
    fail(b, f, "deadlock: threads wait for ones that have ended, this one last");
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

const char* unfinished(Block& b);

std::string run_block(const Kernel* k, Grid* of, dim3 grid, dim3 block, dim3 bid, size_t shared, void** params) {
  Block b;
  b.k = k;
  b.grid = of;
  b.params = params;
  b.rng = bid.x * 2654435761u + 12345;
  int n = block.x * block.y * block.z;
  b.warps.resize((n + 31) / 32);
  b.live = n;
  b.bytes = shared;
  if (shared) {
    if (posix_memalign(&b.shared, 1024, shared)) abort();  // exact size: ASan sees an overrun
    memset(b.shared, 0xff, shared);                       // NaNs: nothing may be read before it is written
  }
  b.watching.reserve(n);  // as the waiters of a barrier
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
    f->stores.clear();
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
  of->gather();
  if (Fiber* f = next(&b)) go(&b, f);
  tsan_acquire(&b.start);
  if (const char* what = unfinished(b); what && b.error.empty()) b.error = what;
  tblock = outer;
  self = nullptr;
  pool().put(b.fibers);
  free(b.shared);
  return b.error;
}

int worker_count() {
  const char* s = setting("CUEMU_THREADS");
  int n = s ? atoi(s) : (int)std::thread::hardware_concurrency();
  return n < 1 ? 1 : n;
}
}  // namespace

void* dynamic_shared() { return tblock->shared; }

void syncthreads() {
  Block* b = tblock;
  Fiber* f = b->current;
  Warp& w = b->warps[f->index >> 5];
  char* sync = &b->sync.at[b->sync.gen & 1];
  tsan_release(sync);
  w.ready &= ~(1u << f->lane);
  w.at_barrier |= 1u << f->lane;
  b->waiting++;
  yield(b);
  tsan_acquire(sync);
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
  char* sync = &w.sync.at[w.sync.gen & 1];
  tsan_release(sync);
  if (w.arrived == w.mask) {
    tsan_acquire(sync);
    fn(w.args, mask);
    tsan_release(sync);
    w.sync.gen++;
    w.ready |= w.mask;
    w.arrived = 0;
    return;
  }
  w.ready &= ~bit;
  yield(b);
  tsan_acquire(sync);
}

void fault(const char* what) {
  Block* b = tblock;
  fail(b, b->current, what);
  go(b, &b->main);  // the block's other fibers are dropped
}

void wait_while(const int* p, int v) {
  Block* b = tblock;
  Fiber* f = b->current;
  b->watching.push_back({f, p, v});
  b->warps[f->index >> 5].ready &= ~(1u << f->lane);
  yield(b);
}

void changed() {
  Grid& g = *tblock->grid;
  if (!g.asleep) return;
  g.lock();
  g.look();
  g.unlock();
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
  tsan_write(dst, 16);
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
    if (c.valid) tsan_read(c.src, 16);
    tsan_write(c.dst, 16);
  }
  f->copies.erase(f->copies.begin(), f->copies.begin() + i);
}

// ---- what capability 9.0 has over earlier ones ----
// The window of shared memory begins at kWindow, as on the device; swizzling goes by these addresses.
constexpr unsigned kWindow = 1024;

unsigned shared_address(const void* p) {
  Block* b = tblock;
  size_t at = (const char*)p - (const char*)b->shared;
  if (at > b->bytes) fault("an address outside of shared memory");
  return kWindow + (unsigned)at;
}

static char* shared_at(unsigned address, size_t n, const char* what) {
  Block* b = tblock;
  if (address < kWindow || address - kWindow + n > b->bytes) fault(what);
  return (char*)b->shared + (address - kWindow);
}

static unsigned swizzle(unsigned address) { return address ^ ((address >> 7 & 7) << 4); }

static Barrier& barrier_at(mbarrier* p) {
  auto it = tblock->barriers.find(p);
  if (it == tblock->barriers.end()) fault("an mbarrier that was not initialised");
  if (*p != it->second.token()) fault("an mbarrier was written over");
  return it->second;
}

void mbarrier_init(mbarrier* p, int count) {
  check_aligned(p, 8);
  shared_at(shared_address(p), 8, "an mbarrier outside of shared memory");
  if (count < 1 || count >= 1 << 20) fault("an mbarrier for no or too many arrivals");
  auto made = tblock->barriers.emplace(p, Barrier());
  if (!made.second) fault("an mbarrier is initialised twice");
  Barrier& b = made.first->second;
  b.count = b.pending = count;
  b.maker = tblock->current;
  b.loads.reserve(64);  // so that no thread moves what another one wrote, which the race detector would see
  b.waiters.reserve(tblock->fibers.size());
  *p = b.token();
}
void mbarrier_init_fence() {
  for (auto& b : tblock->barriers)
    if (b.second.maker == tblock->current) b.second.fenced = true;
}

// deliver does the copies that a barrier waits for.
static void deliver(Barrier& b) {
  tsan_acquire(&b.issued);
  for (Load& l : b.loads) {
    const TensorMap& m = l.map;
    for (unsigned r = 0; r < m.box_rows; r++)
      for (unsigned c = 0; c < m.box_columns; c += 8) {
        unsigned address = l.to + (r * m.box_columns + c) * 2;
        char* to = (char*)tblock->shared + ((m.swizzled ? swizzle(address) : address) - kWindow);
        int64_t y = (int64_t)l.y + r, x = (int64_t)l.x + c;
        for (int e = 0; e < 8; e++) {
          bool inside = y >= 0 && y < (int64_t)m.rows && x + e >= 0 && x + e < (int64_t)m.columns;
          if (inside) memcpy(to + 2 * e, (const char*)m.base + y * m.stride + (x + e) * 2, 2);
          else memset(to + 2 * e, 0, 2);
        }
        tsan_write(to, 16);
      }
    b.tx -= (long)m.box_rows * m.box_columns * 2;
  }
  b.loads.clear();
  tsan_release(&b.sync[b.phase & 1]);
}

// settle ends the phase of a barrier when everything has come.
static void settle(Barrier& b, mbarrier* p) {
  if (!b.waiters.empty()) deliver(b);
  if (b.pending || b.tx) return;
  b.phase++;
  b.pending = b.count;
  *p = b.token();
  for (Fiber* f : b.waiters) tblock->warps[f->index >> 5].ready |= 1u << f->lane;
  b.waiters.clear();
}

void mbarrier_arrive(mbarrier* p, int bytes) {
  Barrier& b = barrier_at(p);
  if (!tblock->current->stores.empty()) fault("an arrival with put_async stores that were not fenced");
  tsan_release(&b.sync[b.phase & 1]);
  b.tx += bytes;
  b.pending--;
  settle(b, p);
}

void mbarrier_wait(mbarrier* p, int parity) {
  Barrier& b = barrier_at(p);
  Fiber* f = tblock->current;
  while ((b.phase & 1) == (unsigned)parity) {
    b.waiters.push_back(f);
    settle(b, p);
    if (b.waiters.empty()) break;  // that was all that lacked
    tblock->warps[f->index >> 5].ready &= ~(1u << f->lane);
    yield(tblock);
  }
  tsan_acquire(&b.sync[parity]);
}

void tma_load(void* to, const void* map, int x, int y, mbarrier* p) {
  Load l;
  check_aligned(to, 128);
  check_aligned(map, 64);
  memcpy(&l.map, map, sizeof l.map);
  if (l.map.magic != kTensorMap) fault("a copy by something that is no tensor map");
  Barrier& b = barrier_at(p);
  if (!b.fenced) fault("a copy to an mbarrier without mbarrier_init_fence");
  size_t bytes = (size_t)l.map.box_rows * l.map.box_columns * 2;
  l.to = shared_address(to);
  l.x = x;
  l.y = y;
  char* at = shared_at(l.to, bytes, "a copy to outside of shared memory");
  memset(at, 0xff, bytes);
  tsan_write(at, bytes);
  b.loads.push_back(l);
  tsan_release(&b.issued);
  settle(b, p);
}

// A store that tensor cores will read is there after the fence.
void put_async(void* to, uint4 v) {
  check_aligned(to, 16);
  shared_at(shared_address(to), 16, "a store outside of shared memory");
  memset(to, 0xff, 16);
  tsan_write(to, 16);
  tblock->current->stores.push_back({to, v});
}
void fence_async() {
  for (Store& s : tblock->current->stores) {
    memcpy(s.to, &s.v, 16);
    tsan_write(s.to, 16);
  }
  tblock->current->stores.clear();
}

void barrier_sync(int id, int threads) {
  Block* b = tblock;
  Fiber* f = b->current;
  if (id < 1 || id > 15 || threads % 32) fault("a named barrier is number 1 to 15, for whole warps");
  Named& n = b->named[id];
  if (!n.waiters.empty() && n.threads != threads) fault("a named barrier for different numbers of threads");
  n.threads = threads;
  n.waiters.reserve(b->fibers.size());
  char* sync = &n.sync.at[n.sync.gen & 1];
  tsan_release(sync);
  n.waiters.push_back(f);
  if ((int)n.waiters.size() == threads) {
    for (Fiber* w : n.waiters) b->warps[w->index >> 5].ready |= 1u << w->lane;
    n.waiters.clear();
    n.sync.gen++;
  } else {
    b->warps[f->index >> 5].ready &= ~(1u << f->lane);
    yield(b);
  }
  tsan_acquire(sync);
}

// Products of a warp, a quarter of what its four warps compute together, wait with their sums until wgmma_wait.
static Warp& my_warp() { return tblock->warps[tblock->current->index >> 5]; }

// operand reads eight halves of row r of an operand, the first or the second eight along k.
static void operand(uint64_t matrix, int r, int eight, float* out) {
  unsigned start = (matrix & 0x3fff) << 4, leading = (matrix >> 16 & 0x3fff) << 4, stride = (matrix >> 32 & 0x3fff) << 4, layout = matrix >> 62;
  if (matrix >> 49 & 7) fault("a matrix with a base offset, which is not emulated");
  unsigned address = start + r / 8 * stride;
  if (layout == 0) address += r % 8 * 16 + eight * leading;
  else if (layout == 1) address = swizzle(address + r % 8 * 128 + eight * 16);
  else fault("a matrix in a layout that is not emulated");
  char* at = shared_at(address, 16, "a matrix outside of shared memory");
  tsan_read(at, 16);
  half h[8];
  memcpy(h, at, 16);
  for (int e = 0; e < 8; e++) out[e] = to_float(h[e]);
}

static void multiply(Sums& s, const Product& p, int rows_from) {
  alignas(64) float a[16][16], b[16][256];
  for (int r = 0; r < 16; r++)
    for (int e = 0; e < 2; e++) operand(p.a, rows_from + r, e, &a[r][8 * e]);
  for (int c = 0; c < s.columns; c++) {
    float row[16];
    for (int e = 0; e < 2; e++) operand(p.b, c, e, row + 8 * e);
    for (int k = 0; k < 16; k++) b[k][c] = row[k];
  }
  for (int r = 0; r < 16; r++)
    for (int k = 0; k < 16; k++) {
      float x = a[r][k];
      float* to = &s.c[r * s.columns];
      for (int c = 0; c < s.columns; c++) to[c] += x * b[k][c];
    }
}

struct WgmmaCall { float* d; int columns; uint64_t a, b; };
// place calls f with each number of d that a lane holds and its place among the 16 rows of the warp.
template <class F> static void place(int lane, int columns, F f) {
  for (int i = 0; i < columns / 2; i++) f(i, (lane / 4 + i / 2 % 2 * 8) * columns + i / 4 * 8 + lane % 4 * 2 + i % 2);
}

void wgmma(float* d, int columns, uint64_t a, uint64_t b) {
  WgmmaCall call{d, columns, a, b};
  collective([](void** args, unsigned mask) {
    if (mask != 0xffffffffu) fault("wgmma with part of the warp");
    Warp& w = my_warp();
    if (!w.fenced) fault("wgmma without wgmma_fence");
    auto lane = [&](int l) -> WgmmaCall& { return *static_cast<WgmmaCall*>(args[l]); };
    WgmmaCall& first = lane(0);
    for (int l = 1; l < 32; l++)
      if (lane(l).a != first.a || lane(l).b != first.b) fault("lanes of a warp name different matrices");
    size_t s = 0;
    while (s < w.sums.size() && w.sums[s].d[0] != first.d) s++;
    if (s == w.sums.size()) {
      w.sums.emplace_back();
      Sums& sums = w.sums[s];
      sums.columns = first.columns;
      sums.c.resize(16 * first.columns);
      for (int l = 0; l < 32; l++) {
        float* d = sums.d[l] = lane(l).d;
        place(l, first.columns, [&](int i, int at) { sums.c[at] = d[i]; });
        memset(d, 0xff, first.columns / 2 * sizeof(float));
      }
    }
    w.products.push_back({first.a, first.b, (int)s, w.groups});
    w.told = (w.told * 1099511628211u ^ first.a) * 1099511628211u ^ first.b;
  }, &call, 0xffffffffu);
}

void wgmma_fence() {
  collective([](void**, unsigned) { my_warp().fenced = true; }, nullptr, 0xffffffffu);
}
void wgmma_commit() {
  collective([](void**, unsigned) {
    my_warp().groups++;
    my_warp().fenced = false;
  }, nullptr, 0xffffffffu);
}
void wgmma_wait(int groups) {
  collective([](void** args, unsigned) {
    Warp& w = my_warp();
    int left = *static_cast<int*>(args[0]), rows_from = (tblock->current->index >> 5) % 4 * 16;
    size_t done = 0;
    for (; done < w.products.size() && w.products[done].group < w.groups - left; done++) {
      const Product& p = w.products[done];
      multiply(w.sums[p.sums], p, rows_from);
    }
    w.products.erase(w.products.begin(), w.products.begin() + done);
    if (!w.products.empty()) return;
    for (Sums& s : w.sums)
      for (int l = 0; l < 32; l++) place(l, s.columns, [&](int i, int at) { s.d[l][i] = s.c[at]; });
    w.sums.clear();
  }, &groups, 0xffffffffu);
}

// unfinished says what a block that has ended left behind.
namespace {
const char* unfinished(Block& b) {
  for (auto& m : b.barriers)
    if (!m.second.loads.empty()) return "a block ended with a copy to shared memory on its way";
  for (size_t i = 0; i < b.warps.size(); i++) {
    if (!b.warps[i].products.empty()) return "a warp ended with products not waited for";
    if (b.warps[i].told != b.warps[i / 4 * 4].told) return "four warps that multiply together call different wgmma";
  }
  return nullptr;
}
}  // namespace

void add_kernel(Kernel k) { kernels()[k.name] = std::move(k); }
const Kernel* find_kernel(const char* name) {
  auto it = kernels().find(name);
  return it == kernels().end() ? nullptr : &it->second;
}

std::string launch(const Kernel* k, dim3 grid, dim3 block, size_t shared, void** params, bool cooperative) {
  size_t total = (size_t)grid.x * grid.y * grid.z;
  Grid all(total, cooperative);
  pool(), order();  // made before there are several threads
  std::atomic<size_t> at{0};
  std::mutex mu;
  std::string error;
  auto work = [&] {
    for (size_t i; (i = at++) < total;) {
      dim3 bid = {(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / ((size_t)grid.x * grid.y))};
      std::string e = run_block(k, &all, grid, block, bid, shared, params);
      if (!e.empty()) {
        std::lock_guard<std::mutex> l(mu);
        if (error.empty()) error = e;
        at = total;
      }
      all.end();
    }
  };
  size_t nt = cooperative ? total : worker_count();
  if (nt > total) nt = total;
  std::vector<std::thread> ts;
  for (size_t i = 1; i < nt; i++) ts.emplace_back(work);
  work();
  for (auto& t : ts) t.join();
  return error;
}
}  // namespace cuemu
