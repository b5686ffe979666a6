package checkpoint

import "github.com/spin-native/spin/internal/torchfile"

func openTorch(path string) (torchFile, error) { return torchfile.Open(path) }
