# Device code. `make -f kernels.mk` will compile the CUDA kernels into the image that builds with the tag `cuda` embed;
# there are none yet: the engine computes on the processor, whose kernels `go build` compiles by itself.
.PHONY: all
all:
	@echo "There are no CUDA kernels yet; the CPU kernels need no make: go build ./... compiles them."
