// tensormap.h is what the emulated driver keeps in the 128 bytes of a tensor map, and the emulated device reads there: a
// matrix of halves.
#pragma once
#include <stdint.h>

namespace cuemu {
constexpr uint32_t kTensorMap = 0x70616d74;
struct TensorMap {
  uint64_t base;  // first and whole, so that replay finds the address
  uint64_t columns, rows, stride;  // stride in bytes
  uint32_t box_columns, box_rows;
  uint32_t swizzled;  // 128 bytes, or not at all
  uint32_t magic;
};
static_assert(sizeof(TensorMap) <= 128, "a tensor map is 128 bytes");
}  // namespace cuemu
