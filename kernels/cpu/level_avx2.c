//go:build cgo && amd64

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define LANES 8
#define MR 6
#define LEVEL spin_level_avx2
#include "template.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
