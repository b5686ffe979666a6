//go:build cgo && amd64

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma")
#endif
#define LANES 16
#define MR 12
#define LEVEL spin_level_avx512
#include "template.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
