//go:build cgo

#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#include "spin.h"

// spin_alloc aligns to cache lines, and large blocks to huge pages, which it asks for.
void *spin_alloc(unsigned long bytes) {
	const unsigned long huge = 2ul << 20, align = bytes >= huge ? huge : 64;
#if defined(_WIN32)
	return _aligned_malloc(bytes ? bytes : 64, 64);
#else
	void *p = 0;
	if (posix_memalign(&p, align, bytes ? bytes : 64)) return 0;
#if defined(__linux__)
	if (bytes >= huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
	return p;
#endif
}

void spin_free(void *p) {
#if defined(_WIN32)
	_aligned_free(p);
#else
	free(p);
#endif
}
