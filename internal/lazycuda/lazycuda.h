#pragma once
enum { LAZYCUDA_NO_LIBRARY = -1 };
// lazycuda_open opens the driver's library, points the trampolines into it and initialises it: 0, a CUresult, or
// LAZYCUDA_NO_LIBRARY.
int lazycuda_open(const char *path);
