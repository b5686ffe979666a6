//go:build cgo

// The level that every processor of the architecture has: SSE2 on amd64, NEON on arm64.
#define LANES 4
#define MR 6
#define LEVEL spin_level_base
#include "template.h"
