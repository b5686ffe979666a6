// A stand-in for libcuda.so.1 for tests on machines without a GPU. It runs the
// kernels compiled for the host by name. It is as unforgiving as it can be:
//  - work is queued, and done only when something waits for it, so a missing
//    synchronisation shows as stale data;
//  - fresh memory holds NaNs; device memory is plain heap memory, one block an
//    allocation, so a build with -fsanitize=address sees overruns in kernels;
//  - calls without a current context on the calling OS thread fail, as do bad
//    launch shapes, kernels missing in the loaded image, and images without
//    code for the pretended device.
#include <cuda.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>
#include "cuemu.h"
#include "launches.h"
#include "tensormap.h"

#define API extern "C" __attribute__((visibility("default"))) CUresult

namespace {
using Op = std::function<CUresult()>;
std::recursive_mutex mu;
#define LOCK std::lock_guard<std::recursive_mutex> lock(mu)

bool inited;
CUresult sticky = CUDA_SUCCESS;
int env(const char* n, int d) { const char* s = cuemu::setting(n); return s ? atoi(s) : d; }
int cc() { static int v = env("CUEMU_CC", 90); return v; }
size_t memory() {
  const char* bytes = cuemu::setting("CUEMU_MEMORY");
  return bytes ? strtoull(bytes, nullptr, 10) : (size_t)4 << 30;
}
bool trace() { static bool v = env("CUEMU_TRACE", 0); return v; }
int multiprocessors() { return env("CUEMU_SMS", 132); }
// asked_to reports whether the environment variable names fn.
bool asked_to(const char* variable, const char* fn) { const char* s = cuemu::setting(variable); return s && !strcmp(s, fn); }
bool cooperates() { return !asked_to("CUEMU_ABSENT", "cooperative"); }
// note appends a line to the file that CUEMU_LOG names.
void note(const char* what, const char* name) {
  const char* path = cuemu::setting("CUEMU_LOG");
  FILE* f = path ? fopen(path, "a") : nullptr;
  if (!f) return;
  fprintf(f, *name ? "%s %s\n" : "%s\n", what, name);
  fclose(f);
}

CUresult fail(CUresult r, const char* fmt, ...) __attribute__((format(printf, 2, 3)));
CUresult fail(CUresult r, const char* fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  fprintf(stderr, "cudaemu: error %d: ", (int)r);
  vfprintf(stderr, fmt, ap);
  fputc('\n', stderr);
  va_end(ap);
  return r;
}
std::map<uintptr_t, size_t> dev_mem, host_mem;
bool inside(const std::map<uintptr_t, size_t>& m, uintptr_t p, size_t n, uintptr_t* base = nullptr, size_t* size = nullptr) {
  auto it = m.upper_bound(p);
  if (it == m.begin()) return false;
  --it;
  if (p >= it->first + (it->second ? it->second : 1) || p + n > it->first + it->second) return false;
  if (base) *base = it->first;
  if (size) *size = it->second;
  return true;
}
}  // namespace

struct CUctx_st { int dev; int refs; };
struct CUgraphNode_st { struct CUgraph_st* of; size_t at; CUfunction fn; };  // the operation of its graph
struct CUgraph_st { std::vector<Op> ops; std::vector<std::unique_ptr<CUgraphNode_st>> nodes; };
struct CUgraphExec_st { std::vector<Op> ops; CUgraph_st* of; };
struct CUstream_st {
  std::deque<Op> q;
  CUgraph_st* capture = nullptr;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::thread::id capturer;
  bool broken = false;  // the capture saw a call that it must not see
  unsigned flags = 0;
};
struct CUevent_st {
  bool recorded = false, done = false;
  CUstream_st* stream = nullptr;
  double at = 0;
};
struct CUfunc_st { const cuemu::Kernel* k; int max_dynamic = 48 << 10, max_threads = 1024; };
struct CUmod_st { std::string image; std::map<std::string, std::unique_ptr<CUfunc_st>> fns; };

namespace {
CUctx_st primary{0, 0};
thread_local std::vector<CUcontext> current;
std::set<CUstream> streams;
CUstream_st null_stream;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

CUresult drain(CUstream_st* s) {
  while (!s->q.empty()) {
    Op op = std::move(s->q.front());
    s->q.pop_front();
    CUresult r = op();
    if (r != CUDA_SUCCESS && sticky == CUDA_SUCCESS) sticky = r;
    if (sticky != CUDA_SUCCESS) s->q.clear();
  }
  return sticky;
}
CUresult drain_all() {
  for (CUstream_st* s : streams) drain(s);
  return drain(&null_stream);
}
// breaks_capture marks the captures that a call of this thread must not happen in.
bool breaks_capture() {
  bool any = false;
  for (CUstream_st* s : streams)
    if (s->capture && (s->mode == CU_STREAM_CAPTURE_MODE_GLOBAL || s->capturer == std::this_thread::get_id())) any = s->broken = true;
  return any;
}
// enter is the check at the head of every call that needs a context.
CUresult enter(const char* symbol) {
  std::string name = symbol;  // the headers add _v2 to some
  if (size_t at = name.rfind("_v"); at != name.npos) name.resize(at);
  const char* fn = name.c_str();
  if (trace()) fprintf(stderr, "cudaemu: %s\n", fn);
  note(fn, "");
  if (!inited) return fail(CUDA_ERROR_NOT_INITIALIZED, "%s before cuInit", fn);
  if (current.empty() || !current.back()) return fail(CUDA_ERROR_INVALID_CONTEXT, "%s: no current context on this thread", fn);
  if (sticky == CUDA_SUCCESS && asked_to("CUEMU_REFUSE", fn)) {
    bool meeting = !strcmp(fn, "cuLaunchCooperativeKernel") || !strcmp(fn, "cuGraphKernelNodeSetAttribute");
    breaks_capture();
    return meeting ? CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE : CUDA_ERROR_OUT_OF_MEMORY;
  }
  return sticky;
}
#define ENTER LOCK; if (CUresult e = enter(__func__)) return e
#define NO_CAPTURE if (breaks_capture()) return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "%s during a stream capture", __func__)

CUresult push(CUstream s, Op op) {
  if (!s || s == CU_STREAM_LEGACY || s == CU_STREAM_PER_THREAD) {
    NO_CAPTURE;
    if (CUresult r = drain_all()) return r;
    return op();
  }
  if (!streams.count(s)) return fail(CUDA_ERROR_INVALID_HANDLE, "unknown stream %p", (void*)s);
  if (s->capture && s->broken) return fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "work for a capture that is broken");
  if (s->capture) s->capture->ops.push_back(std::move(op));
  else {
    s->q.push_back(std::move(op));
    if (env("CUEMU_EAGER", 0)) return drain(s);
  }
  return CUDA_SUCCESS;
}
CUresult device_range(const char* fn, CUdeviceptr p, size_t n) {
  if (inside(dev_mem, p, n)) return CUDA_SUCCESS;
  return fail(CUDA_ERROR_INVALID_VALUE, "%s: %zu bytes at 0x%llx are not inside one device allocation", fn, n, (unsigned long long)p);
}
}  // namespace

// ---- initialisation, devices, contexts ----
API cuInit(unsigned flags) {
  LOCK;
  if (env("CUEMU_NO_DEVICE", 0)) return CUDA_ERROR_NO_DEVICE;
  inited = true;
  return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
API cuDriverGetVersion(int* v) { *v = CUDA_VERSION; return CUDA_SUCCESS; }
API cuDeviceGetCount(int* n) { *n = 1; return CUDA_SUCCESS; }
API cuDeviceGet(CUdevice* d, int i) { if (i) return CUDA_ERROR_INVALID_DEVICE; *d = 0; return CUDA_SUCCESS; }
API cuDeviceGetName(char* s, int n, CUdevice) { snprintf(s, n, "host emulation sm_%d", cc()); return CUDA_SUCCESS; }
API cuDeviceGetUuid(CUuuid* u, CUdevice) { memset(u, 7, sizeof *u); return CUDA_SUCCESS; }
API cuDeviceTotalMem(size_t* n, CUdevice) { *n = memory(); return CUDA_SUCCESS; }
API cuDeviceGetAttribute(int* v, CUdevice_attribute a, CUdevice) {
  switch ((int)a) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: *v = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *v = 64; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *v = 0x7fffffff; break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *v = 65535; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *v = 48 << 10; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *v = (cc() >= 90 ? 227 : cc() == 80 ? 163 : cc() > 80 ? 99 : 64) << 10; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *v = 32; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = multiprocessors(); break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = cc() / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = cc() % 10; break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: *v = 1; break;
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH: *v = cooperates(); break;
    default: *v = 0;
  }
  return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice) { LOCK; primary.refs++; *c = &primary; return inited ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED; }
API cuDevicePrimaryCtxRelease(CUdevice) { LOCK; return --primary.refs < 0 ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS; }
API cuCtxCreate(CUcontext* c, unsigned, CUdevice) { LOCK; *c = new CUctx_st{0, 1}; current.push_back(*c); return CUDA_SUCCESS; }
API cuCtxDestroy(CUcontext c) { LOCK; for (auto& x : current) if (x == c) x = nullptr; if (c != &primary) delete c; return CUDA_SUCCESS; }
API cuCtxSetCurrent(CUcontext c) { LOCK; if (current.empty()) current.push_back(c); else current.back() = c; return CUDA_SUCCESS; }
API cuCtxGetCurrent(CUcontext* c) { *c = current.empty() ? nullptr : current.back(); return CUDA_SUCCESS; }
API cuCtxPushCurrent(CUcontext c) { current.push_back(c); return CUDA_SUCCESS; }
API cuCtxPopCurrent(CUcontext* c) { if (current.empty()) return CUDA_ERROR_INVALID_CONTEXT; *c = current.back(); current.pop_back(); return CUDA_SUCCESS; }
API cuCtxGetDevice(CUdevice* d) { ENTER; *d = 0; return CUDA_SUCCESS; }
API cuCtxSynchronize() { ENTER; NO_CAPTURE; return drain_all(); }

// ---- memory ----
API cuMemGetInfo(size_t* f, size_t* t) {
  ENTER;
  *t = *f = memory();
  for (auto& m : dev_mem) *f -= m.second;
  return CUDA_SUCCESS;
}
API cuMemAlloc(CUdeviceptr* p, size_t n) {
  ENTER;
  NO_CAPTURE;
  if (!n) return CUDA_ERROR_INVALID_VALUE;
  size_t used = n;
  for (auto& m : dev_mem) used += m.second;
  void* m;
  if (used > memory() || posix_memalign(&m, 256, n)) return CUDA_ERROR_OUT_OF_MEMORY;
  memset(m, 0xff, n);
  dev_mem[*p = (CUdeviceptr)m] = n;
  return CUDA_SUCCESS;
}
API cuMemFree(CUdeviceptr p) {
  ENTER;
  NO_CAPTURE;
  drain_all();
  if (!dev_mem.erase(p)) return fail(CUDA_ERROR_INVALID_VALUE, "cuMemFree of 0x%llx, not an allocation", (unsigned long long)p);
  free((void*)p);
  return sticky;
}
API cuMemAllocAsync(CUdeviceptr* p, size_t n, CUstream) { return cuMemAlloc(p, n); }
API cuMemFreeAsync(CUdeviceptr p, CUstream s) {
  ENTER;
  if (!dev_mem.count(p)) return fail(CUDA_ERROR_INVALID_VALUE, "cuMemFreeAsync of 0x%llx, not an allocation", (unsigned long long)p);
  return push(s, [p] { dev_mem.erase(p); free((void*)p); return CUDA_SUCCESS; });
}
API cuMemHostAlloc(void** p, size_t n, unsigned) {
  ENTER;
  if (posix_memalign(p, 4096, n)) return CUDA_ERROR_OUT_OF_MEMORY;
  memset(*p, 0xff, n);
  host_mem[(uintptr_t)*p] = n;
  return CUDA_SUCCESS;
}
API cuMemAllocHost(void** p, size_t n) { return cuMemHostAlloc(p, n, 0); }
API cuMemFreeHost(void* p) {
  ENTER;
  drain_all();
  if (!host_mem.erase((uintptr_t)p)) return fail(CUDA_ERROR_INVALID_VALUE, "cuMemFreeHost of %p, not pinned memory", p);
  free(p);
  return sticky;
}
API cuMemGetAddressRange(CUdeviceptr* b, size_t* n, CUdeviceptr p) {
  ENTER;
  uintptr_t base;
  size_t size;
  if (!inside(dev_mem, p, 0, &base, &size)) return CUDA_ERROR_NOT_FOUND;
  if (b) *b = base;
  if (n) *n = size;
  return CUDA_SUCCESS;
}
API cuMemcpyHtoD(CUdeviceptr d, const void* s, size_t n) {
  ENTER;
  NO_CAPTURE;
  if (CUresult r = device_range(__func__, d, n)) return r;
  if (CUresult r = drain_all()) return r;
  memcpy((void*)d, s, n);
  return CUDA_SUCCESS;
}
API cuMemcpyDtoH(void* d, CUdeviceptr s, size_t n) {
  ENTER;
  NO_CAPTURE;
  if (CUresult r = device_range(__func__, s, n)) return r;
  if (CUresult r = drain_all()) return r;
  memcpy(d, (void*)s, n);
  return CUDA_SUCCESS;
}
API cuMemcpyDtoDAsync(CUdeviceptr d, CUdeviceptr s, size_t n, CUstream st) {
  ENTER;
  if (CUresult r = device_range(__func__, d, n)) return r;
  if (CUresult r = device_range(__func__, s, n)) return r;
  return push(st, [=] { memcpy((void*)d, (void*)s, n); return CUDA_SUCCESS; });
}
API cuMemcpyDtoD(CUdeviceptr d, CUdeviceptr s, size_t n) { return cuMemcpyDtoDAsync(d, s, n, nullptr); }
API cuMemcpyHtoDAsync(CUdeviceptr d, const void* s, size_t n, CUstream st) {
  ENTER;
  if (CUresult r = device_range(__func__, d, n)) return r;
  if (inside(host_mem, (uintptr_t)s, n)) return push(st, [=] { memcpy((void*)d, s, n); return CUDA_SUCCESS; });
  if (st && streams.count(st) && st->capture) {
    st->broken = true;
    return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "%s from pageable memory during a capture", __func__);
  }
  auto stage = std::make_shared<std::vector<char>>((const char*)s, (const char*)s + n);  // pageable memory is staged at once
  return push(st, [=] { memcpy((void*)d, stage->data(), n); return CUDA_SUCCESS; });
}
API cuMemcpyDtoHAsync(void* d, CUdeviceptr s, size_t n, CUstream st) {
  ENTER;
  if (CUresult r = device_range(__func__, s, n)) return r;
  bool pinned = inside(host_mem, (uintptr_t)d, n);
  if (!pinned && st && streams.count(st) && st->capture) {
    st->broken = true;
    return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "%s to pageable memory during a capture", __func__);
  }
  if (CUresult r = push(st, [=] { memcpy(d, (void*)s, n); return CUDA_SUCCESS; })) return r;
  if (!pinned && st) return drain(st);
  return CUDA_SUCCESS;
}
template <class T> static CUresult fill(const char* fn, CUdeviceptr p, T v, size_t n, CUstream st) {
  if (CUresult r = device_range(fn, p, n * sizeof(T))) return r;
  return push(st, [=] { for (size_t i = 0; i < n; i++) ((T*)p)[i] = v; return CUDA_SUCCESS; });
}
API cuMemsetD8(CUdeviceptr p, unsigned char v, size_t n) { ENTER; return fill(__func__, p, v, n, nullptr); }
API cuMemsetD16(CUdeviceptr p, unsigned short v, size_t n) { ENTER; return fill(__func__, p, v, n, nullptr); }
API cuMemsetD32(CUdeviceptr p, unsigned v, size_t n) { ENTER; return fill(__func__, p, v, n, nullptr); }
API cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, CUstream s) { ENTER; return fill(__func__, p, v, n, s); }
API cuMemsetD16Async(CUdeviceptr p, unsigned short v, size_t n, CUstream s) { ENTER; return fill(__func__, p, v, n, s); }
API cuMemsetD32Async(CUdeviceptr p, unsigned v, size_t n, CUstream s) { ENTER; return fill(__func__, p, v, n, s); }

// ---- streams, events ----
API cuStreamCreate(CUstream* s, unsigned flags) { ENTER; *s = new CUstream_st; (*s)->flags = flags; streams.insert(*s); return CUDA_SUCCESS; }
API cuStreamDestroy(CUstream s) { ENTER; if (!streams.count(s)) return CUDA_ERROR_INVALID_HANDLE; drain(s); streams.erase(s); delete s; return CUDA_SUCCESS; }
API cuStreamSynchronize(CUstream s) {
  ENTER;
  if (s && s->capture) {
    s->broken = true;
    return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "%s of a stream that is captured", __func__);
  }
  return s ? drain(s) : drain_all();
}
API cuStreamQuery(CUstream s) { ENTER; return s && !s->q.empty() ? (drain(s) ? sticky : CUDA_ERROR_NOT_READY) : sticky; }
API cuEventCreate(CUevent* e, unsigned) { ENTER; *e = new CUevent_st; return CUDA_SUCCESS; }
API cuEventDestroy(CUevent e) { ENTER; drain_all(); delete e; return CUDA_SUCCESS; }
API cuEventRecord(CUevent e, CUstream s) {
  ENTER;
  e->recorded = true;
  e->done = false;
  e->stream = s ? s : &null_stream;
  return push(s, [e] { e->done = true; e->at = now(); return CUDA_SUCCESS; });
}
static CUresult event_done(CUevent e) {
  while (e->recorded && !e->done && !e->stream->q.empty()) {
    Op op = std::move(e->stream->q.front());
    e->stream->q.pop_front();
    CUresult r = op();
    if (r != CUDA_SUCCESS && sticky == CUDA_SUCCESS) sticky = r;
    if (sticky != CUDA_SUCCESS) return sticky;
  }
  return sticky;
}
API cuEventSynchronize(CUevent e) { ENTER; NO_CAPTURE; return event_done(e); }
API cuEventQuery(CUevent e) { ENTER; if (e->recorded && !e->done) { event_done(e); return CUDA_ERROR_NOT_READY; } return sticky; }
API cuStreamWaitEvent(CUstream s, CUevent e, unsigned) { ENTER; return push(s, [e] { return event_done(e); }); }
API cuEventElapsedTime(float* ms, CUevent a, CUevent b) {
  ENTER;
  if (!a->done || !b->done) return a->recorded && b->recorded ? CUDA_ERROR_NOT_READY : CUDA_ERROR_INVALID_HANDLE;
  *ms = (float)((b->at - a->at) * 1e3);
  return CUDA_SUCCESS;
}

// ---- modules and kernels ----
// keep writes a launch to the file that CUEMU_LAUNCHES names: a few of each kernel, of different shapes, none of them large.
// Of a cooperative launch all threads live at once, and the race detector knows 8128 of them at most.
static void keep(const char* name, dim3 grid, dim3 block, size_t shared, const std::vector<std::vector<char>>& params, bool cooperative) {
  const char* path = cuemu::setting("CUEMU_LAUNCHES");
  if (!path) return;
  static std::map<std::string, std::set<std::vector<unsigned>>> kept;
  std::set<std::vector<unsigned>>& shapes = kept[name];
  std::vector<unsigned> shape = {grid.x, grid.y, grid.z, block.x, (unsigned)shared};
  size_t threads = (size_t)grid.x * grid.y * grid.z * block.x;
  if (threads > (cooperative ? 1 << 12 : shapes.empty() ? 1 << 16 : 1 << 13) || shapes.size() >= 4 || !shapes.insert(shape).second) return;
  cuemu::Launch l{name, grid, block, shared, cooperative, params, {}};
  size_t total = 0;
  cuemu::each_pointer(l.params, [&](char* at) {
    uintptr_t p, base;
    size_t size;
    memcpy(&p, at, 8);
    if (!p || !inside(dev_mem, p, 0, &base, &size) || l.memory.count(base)) return;
    total += size;
    l.memory[base].assign((char*)base, (char*)base + size);
  });
  FILE* f = total > 64 << 20 ? nullptr : fopen(path, "ab");
  if (!f) return;
  cuemu::write(f, l);
  fclose(f);
}
static size_t image_size(const void* p, std::string* why) {
  const unsigned char* b = (const unsigned char*)p;
  uint32_t magic;
  memcpy(&magic, b, 4);
  if (magic == 0xBA55ED50u) {  // fatbin: one entry must serve the device
    uint16_t head;
    uint64_t size;
    memcpy(&head, b + 6, 2);
    memcpy(&size, b + 8, 8);
    bool ok = false;
    std::string have;
    for (uint64_t at = head; at < head + size;) {
      uint16_t kind;
      uint32_t hs, arch;
      uint64_t ps;
      memcpy(&kind, b + at, 2);
      memcpy(&hs, b + at + 4, 4);
      memcpy(&ps, b + at + 8, 8);
      memcpy(&arch, b + at + 28, 4);
      int a = (int)arch, c = cc();
      if (kind == 1 ? a <= c : a / 10 == c / 10 && a % 10 <= c % 10) ok = true;
      have += (kind == 1 ? " compute_" : " sm_") + std::to_string(a);
      at += hs + ps;
      if (!hs) break;
    }
    if (trace()) fprintf(stderr, "cudaemu: fatbin holds%s\n", have.c_str());
    if (!ok) *why = "no code for sm_" + std::to_string(cc()) + " in the fatbin (it has" + have + ")";
    return head + size;
  }
  if (!memcmp(b, "\x7f" "ELF", 4)) {
    uint64_t shoff;
    uint32_t flags;
    uint16_t es, n;
    memcpy(&shoff, b + 40, 8);
    memcpy(&flags, b + 48, 4);
    int arch = flags & 0xff;
    bool alone = flags & 0x800;  // sm_90a and the like, which run on devices of this very capability
    if (alone ? arch != cc() : arch / 10 != cc() / 10 || arch % 10 > cc() % 10)
      *why = "no code for sm_" + std::to_string(cc()) + " in a cubin of sm_" + std::to_string(arch) + (alone ? "a" : "");
    memcpy(&es, b + 58, 2);
    memcpy(&n, b + 60, 2);
    return shoff + (size_t)es * n;
  }
  size_t n = strlen((const char*)p);  // PTX text
  if (!strstr((const char*)p, ".version")) *why = "neither a fatbin, a cubin nor PTX";
  return n;
}
API cuModuleLoadDataEx(CUmodule* m, const void* image, unsigned, CUjit_option*, void**) {
  ENTER;
  std::string why;
  size_t n = image_size(image, &why);
  if (!why.empty()) return fail(why[0] == 'n' && why[1] == 'o' ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_ERROR_INVALID_IMAGE, "%s", why.c_str());
  *m = new CUmod_st;
  (*m)->image.assign((const char*)image, n);
  return CUDA_SUCCESS;
}
API cuModuleLoadData(CUmodule* m, const void* image) { return cuModuleLoadDataEx(m, image, 0, nullptr, nullptr); }
API cuModuleLoadFatBinary(CUmodule* m, const void* image) { return cuModuleLoadDataEx(m, image, 0, nullptr, nullptr); }
API cuModuleUnload(CUmodule m) { ENTER; drain_all(); delete m; return CUDA_SUCCESS; }
API cuModuleGetFunction(CUfunction* f, CUmodule m, const char* name) {
  ENTER;
  const std::string& im = m->image;
  std::string entry = std::string(".entry ") + name + "(", section = std::string(".text.") + name + '\0';
  size_t ptx = im.find(entry);
  if (ptx == im.npos && im.find(section) == im.npos) return fail(CUDA_ERROR_NOT_FOUND, "kernel %s is not in the loaded image", name);
  const cuemu::Kernel* k = cuemu::find_kernel(name);
  if (!k) return fail(CUDA_ERROR_NOT_FOUND, "kernel %s is in the image but was not built for the host", name);
  auto& slot = m->fns[name];
  if (!slot) {
    slot.reset(new CUfunc_st{k});
    if (ptx != im.npos) {  // plain PTX: check the parameters against the source
      size_t body = im.find('{', ptx), n = 0;
      for (size_t p = ptx; (p = im.find(".param ", p)) < body; p++) n++;
      if (n != k->params.size()) return fail(CUDA_ERROR_INVALID_IMAGE, "kernel %s: image has %zu parameters, source %zu (stale image?)", name, n, k->params.size());
      // The kernels here take one struct each: its size tells a stale image.
      if (size_t sq = im.find('[', ptx); n == 1 && sq < body && (size_t)atoi(im.c_str() + sq + 1) != k->params[0])
        return fail(CUDA_ERROR_INVALID_IMAGE, "kernel %s: image takes %d bytes, source %zu (stale image?)", name, atoi(im.c_str() + sq + 1), k->params[0]);
      size_t t = im.find(".maxntid ", ptx);
      if (t != im.npos && t < body) slot->max_threads = atoi(im.c_str() + t + 9);
    }
  }
  *f = slot.get();
  return CUDA_SUCCESS;
}
API cuFuncGetAttribute(int* v, CUfunction_attribute a, CUfunction f) {
  ENTER;
  *v = a == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? f->max_threads : a == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES ? f->max_dynamic : 0;
  return CUDA_SUCCESS;
}
API cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
  ENTER;
  if (a == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    int lim;
    cuDeviceGetAttribute(&lim, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0);
    if (v > lim) return fail(CUDA_ERROR_INVALID_VALUE, "%s: %d bytes of dynamic shared memory, the device allows %d", f->k->name, v, lim);
    f->max_dynamic = v;
  }
  return CUDA_SUCCESS;
}
API cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
// resident is how many blocks a multiprocessor holds.
static int resident(int block, size_t smem) {
  int t = 2048 / (block ? block : 1), s = smem ? (int)((228 << 10) / (smem + 1024)) : 32;
  return t < s ? t : s;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, CUfunction, int block, size_t smem) {
  ENTER;
  *n = resident(block, smem);
  return CUDA_SUCCESS;
}
namespace {
struct Call {  // a launch, as an operation
  CUfunction f;
  dim3 grid, block;
  unsigned smem;
  bool cooperative;
  std::shared_ptr<std::vector<std::vector<char>>> args;
  CUresult operator()() const {
    static int launches = 0;
    const char* name = f->k->name;
    note("launch", name);
    if (asked_to("CUEMU_FAIL", name) || ++launches == env("CUEMU_FAIL_LAUNCH", 0)) return CUDA_ERROR_ILLEGAL_ADDRESS;
    keep(name, grid, block, smem, *args, cooperative);
    std::vector<void*> ps;
    for (auto& a : *args) ps.push_back(a.data());
    std::string e = cuemu::launch(f->k, grid, block, smem, ps.data(), cooperative);
    return e.empty() ? CUDA_SUCCESS : fail(CUDA_ERROR_LAUNCH_FAILED, "%s: %s", name, e.c_str());
  }
};
}  // namespace
// check refuses what a device would.
static CUresult check(const Call& c) {
  const char* name = c.f->k->name;
  dim3 g = c.grid, b = c.block;
  size_t threads = (size_t)b.x * b.y * b.z;
  if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) return fail(CUDA_ERROR_INVALID_VALUE, "%s: grid %u,%u,%u", name, g.x, g.y, g.z);
  if (!threads || threads > 1024 || b.z > 64) return fail(CUDA_ERROR_INVALID_VALUE, "%s: block %u,%u,%u", name, b.x, b.y, b.z);
  if ((int)threads > c.f->max_threads) return fail(CUDA_ERROR_INVALID_VALUE, "%s: %zu threads, launch bounds allow %d", name, threads, c.f->max_threads);
  if ((int)c.smem > c.f->max_dynamic) return fail(CUDA_ERROR_INVALID_VALUE, "%s: %u bytes of dynamic shared memory, allowed %d", name, c.smem, c.f->max_dynamic);
  if (!c.cooperative) return CUDA_SUCCESS;
  if (!cooperates()) return fail(CUDA_ERROR_NOT_SUPPORTED, "%s: a cooperative launch", name);
  size_t blocks = (size_t)g.x * g.y * g.z, most = (size_t)multiprocessors() * resident((int)threads, c.smem);
  if (blocks > most) return fail(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "%s: a cooperative launch of %zu blocks, the device holds %zu at once", name, blocks, most);
  return CUDA_SUCCESS;
}
// prepare makes an operation of a launch, with its arguments of now.
static CUresult prepare(CUfunction f, dim3 grid, dim3 block, unsigned smem, void** params, void** extra, bool cooperative, Op* op) {
  const char* name = f->k->name;
  if (extra) return fail(CUDA_ERROR_NOT_SUPPORTED, "%s: launch with extra", name);
  Call c{f, grid, block, smem, cooperative, std::make_shared<std::vector<std::vector<char>>>()};
  if (CUresult r = check(c)) return r;
  if (trace()) fprintf(stderr, "cudaemu: launch %s<<<(%u,%u,%u),(%u,%u,%u),%u>>>%s\n", name, grid.x, grid.y, grid.z, block.x, block.y, block.z, smem, cooperative ? " cooperative" : "");
  for (size_t i = 0; i < f->k->params.size(); i++) c.args->emplace_back((char*)params[i], (char*)params[i] + f->k->params[i]);
  *op = c;
  return CUDA_SUCCESS;
}
API cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned smem, CUstream s, void** params, void** extra) {
  ENTER;
  Op op;
  if (CUresult r = prepare(f, {gx, gy, gz}, {bx, by, bz}, smem, params, extra, false, &op)) return r;
  return push(s, op);
}
API cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned smem, CUstream s, void** params) {
  ENTER;
  Op op;
  if (CUresult r = prepare(f, {gx, gy, gz}, {bx, by, bz}, smem, params, nullptr, true, &op)) return r;
  return push(s, op);
}

// ---- tensor maps ----
// The checks are those that the driver documents; what passes them and is no matrix of halves is not emulated.
API cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* dims, const cuuint64_t* strides,
                           const cuuint32_t* box, const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                           CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  LOCK;
  if (asked_to("CUEMU_ABSENT", __func__)) return CUDA_ERROR_NOT_SUPPORTED;  // what package lazycuda answers for a function that is not there
  if (cc() < 90) return fail(CUDA_ERROR_NOT_SUPPORTED, "%s on sm_%d", __func__, cc());
  const char* bad = nullptr;
  if (rank < 1 || rank > 5) bad = "the rank";
  else if ((uintptr_t)map % 64) bad = "the alignment of the map, expected 64";
  else if ((uintptr_t)base % 16) bad = "the alignment of the tensor, expected 16";
  for (unsigned i = 0; !bad && i < rank; i++) {
    if (dims[i] < 1 || dims[i] > 1ull << 32) bad = "a dimension";
    else if (box[i] < 1 || box[i] > 256) bad = "an edge of the box, expected 1 to 256";
    else if (steps[i] < 1 || steps[i] > 8) bad = "a step, expected 1 to 8";
    else if (i + 1 < rank && (strides[i] % 16 || strides[i] >= 1ull << 40)) bad = "a stride, expected a multiple of 16";
  }
  if (!bad && type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16) {
    if (box[0] * 2 % 16) bad = "the bytes of a row of the box, expected a multiple of 16";
    else if (swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box[0] * 2 > 128) bad = "the bytes of a row of a swizzled box, expected at most 128";
  }
  if (bad) return fail(CUDA_ERROR_INVALID_VALUE, "%s: %s", __func__, bad);
  bool swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
  if (type != CU_TENSOR_MAP_DATA_TYPE_FLOAT16 || rank != 2 || steps[0] != 1 || steps[1] != 1 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
      (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && !(swizzled && box[0] == 64)) || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
    return fail(CUDA_ERROR_NOT_SUPPORTED, "%s of this kind is not emulated", __func__);
  if (CUresult r = device_range(__func__, (CUdeviceptr)base, strides[0] * (dims[1] - 1) + 2 * dims[0])) return r;
  memset(map, 0, sizeof *map);
  cuemu::TensorMap m = {(uint64_t)base, dims[0], dims[1], strides[0], box[0], box[1], swizzled, cuemu::kTensorMap};
  memcpy(map, &m, sizeof m);
  return CUDA_SUCCESS;
}

// ---- graphs (linear: the capture of one stream, or kernels one after the other) ----
API cuStreamBeginCapture(CUstream s, CUstreamCaptureMode mode) {
  ENTER;
  if (!s || !streams.count(s)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (s->capture) return CUDA_ERROR_ILLEGAL_STATE;
  s->capture = new CUgraph_st;
  s->mode = mode;
  s->capturer = std::this_thread::get_id();
  s->broken = false;
  return CUDA_SUCCESS;
}
API cuStreamEndCapture(CUstream s, CUgraph* g) {
  ENTER;
  *g = nullptr;
  if (!s->capture) return CUDA_ERROR_ILLEGAL_STATE;
  if (s->mode != CU_STREAM_CAPTURE_MODE_RELAXED && s->capturer != std::this_thread::get_id()) return fail(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "%s on another thread than the beginning", __func__);
  if (s->broken) delete s->capture;
  else *g = s->capture;
  s->capture = nullptr;
  return s->broken ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
}
API cuGraphInstantiateWithFlags(CUgraphExec* x, CUgraph g, unsigned long long) { ENTER; *x = new CUgraphExec_st{g->ops, g}; return CUDA_SUCCESS; }
API cuGraphCreate(CUgraph* g, unsigned) { ENTER; *g = new CUgraph_st; return CUDA_SUCCESS; }
static CUresult prepare(const CUDA_KERNEL_NODE_PARAMS* p, bool cooperative, Op* op) {
  return prepare(p->func, {p->gridDimX, p->gridDimY, p->gridDimZ}, {p->blockDimX, p->blockDimY, p->blockDimZ}, p->sharedMemBytes, p->kernelParams, p->extra, cooperative, op);
}
API cuGraphAddKernelNode(CUgraphNode* n, CUgraph g, const CUgraphNode* after, size_t count, const CUDA_KERNEL_NODE_PARAMS* p) {
  ENTER;
  if (count != (g->nodes.empty() ? 0 : 1) || (count && *after != g->nodes.back().get())) return fail(CUDA_ERROR_NOT_SUPPORTED, "a node that does not follow the last one");
  Op op;
  if (CUresult r = prepare(p, false, &op)) return r;
  g->nodes.emplace_back(new CUgraphNode_st{g, g->ops.size(), p->func});
  g->ops.push_back(op);
  *n = g->nodes.back().get();
  return CUDA_SUCCESS;
}
API cuGraphKernelNodeSetAttribute(CUgraphNode n, CUkernelNodeAttrID attribute, const CUkernelNodeAttrValue* v) {
  ENTER;
  if (attribute != CU_LAUNCH_ATTRIBUTE_COOPERATIVE) return fail(CUDA_ERROR_NOT_SUPPORTED, "%s of attribute %d is not emulated", __func__, (int)attribute);
  Call& now = *n->of->ops[n->at].target<Call>();
  Call c = now;
  c.cooperative = v->cooperative;
  if (CUresult r = check(c)) return r;
  now = c;
  return CUDA_SUCCESS;
}
API cuGraphExecKernelNodeSetParams(CUgraphExec x, CUgraphNode n, const CUDA_KERNEL_NODE_PARAMS* p) {
  ENTER;
  bool of = false;
  for (auto& node : x->of->nodes) of |= node.get() == n;
  if (!of || n->fn != p->func) return fail(CUDA_ERROR_INVALID_VALUE, "a node of another graph or with another kernel");
  Op& op = x->ops[n->at];
  return prepare(p, op.target<Call>()->cooperative, &op);
}
API cuGraphLaunch(CUgraphExec x, CUstream s) {
  ENTER;
  for (Op& op : x->ops) if (CUresult r = push(s, op)) return r;
  return CUDA_SUCCESS;
}
API cuGraphDestroy(CUgraph g) { ENTER; delete g; return CUDA_SUCCESS; }
API cuGraphExecDestroy(CUgraphExec x) { ENTER; drain_all(); delete x; return CUDA_SUCCESS; }
API cuGetErrorName(CUresult r, const char** s) { static thread_local char b[32]; snprintf(b, sizeof b, "CUDA_ERROR_%d", (int)r); *s = b; return CUDA_SUCCESS; }
API cuGetErrorString(CUresult r, const char** s) { return cuGetErrorName(r, s); }
