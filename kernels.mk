# Device code. The CPU kernels need no make: go build compiles them.
#
#   make -f kernels.mk headers   cuda.h, which builds with the tag cuda need, from PyPI into bin/cuda
#   make -f kernels.mk emu       the emulated device for tests, bin/cudaemu/libcuda.so.1; needs g++
#   make -f kernels.mk image     compiles kernels/cuda/*.cu into the image that builds with the tag embed, and writes the tables of docs/cuda.md
#   make -f kernels.mk check     compiles again and compares; registers, stack, spills, and the tables
#
# The last two need the Python packages that tools/cuda_image.py names (PYTHON=...). docs/cuda.md tells how it all fits together.
PYTHON ?= python3
BIN := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))bin
INC := $(BIN)/cuda/include
EMU ?= $(BIN)/cudaemu

.PHONY: help headers emu image check
help:
	@sed -n 's/^#   //p' kernels.mk

# The last headers that gorgonia.org/cu builds with are those of CUDA 12.
headers: $(INC)/cuda.h
$(INC)/cuda.h: tools/cuda_headers.txt
	rm -rf $(BIN)/cuda && mkdir -p $(BIN)/cuda
	$(PYTHON) -m pip download -q --no-deps --only-binary :all: --platform manylinux2014_x86_64 --require-hashes -d $(BIN)/cuda -r tools/cuda_headers.txt
	cd $(BIN)/cuda && $(PYTHON) -m zipfile -e *.whl . && mv nvidia/cuda_runtime/include include && rm -rf nvidia *.whl *.dist-info
	touch $@

emu: headers
	$(MAKE) -f internal/cudaemu/Makefile OUT=$(EMU) CUDA_INC=$(INC)

image:
	$(PYTHON) tools/cuda_image.py write
check:
	$(PYTHON) tools/cuda_image.py check
