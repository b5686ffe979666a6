//go:build cuda && cgo && linux && amd64

package cuda

import (
	"archive/tar"
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

//go:embed image.tar.zst
var packed []byte

// images are the compiled kernels by architecture.
var images = sync.OnceValues(func() (map[string]string, error) {
	z, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	m := map[string]string{}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			return m, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return nil, err
		}
		m[h.Name] = string(data)
	}
})

// portable is the architecture of the PTX, which devices later than those of the machine code run after a translation by
// their driver; least is the earliest machine code.
const (
	portable = 80
	least    = 75
)

// imageFor picks the kernels for a compute capability: machine code runs on devices of its generation that are not older.
func imageFor(major, minor int) (string, error) {
	m, err := images()
	if err != nil {
		return "", fmt.Errorf("the compiled kernels cannot be read: %w", err)
	}
	for n := minor; n >= 0; n-- {
		if image, ok := m[fmt.Sprintf("sm_%d%d", major, n)]; ok {
			return image, nil
		}
	}
	if 10*major+minor < least {
		return "", fmt.Errorf("compute capability %d.%d, at least %d.%d is needed", major, minor, least/10, least%10)
	}
	return m[fmt.Sprintf("compute_%d", portable)], nil
}
