//go:build cgo

// The template with the vector and tile sizes of AVX-512, lowered to whatever the baseline has. It exists for the tests:
// a machine without AVX-512 can prove the arithmetic of that level, not its speed.
#define LANES 16
#define MR 12
#define LEVEL spin_level_wide
#include "template.h"
