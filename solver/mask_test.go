package solver

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMaskTask: small and thin holes are repaired as scratches are, large ones as boxes.
func TestMaskTask(t *testing.T) {
	picture := func(missing func(x, y int) bool) *Mask {
		gray := make([]uint8, 64*80)
		for i := range gray {
			if missing(i%80, i/80) {
				gray[i] = 255
			}
		}
		m, err := PictureMask(64, 80, gray, false)
		require.NoError(t, err)
		return m
	}
	inside := func(x, y, w, h int) func(int, int) bool {
		return func(px, py int) bool { return px >= x && px < x+w && py >= y && py < y+h }
	}
	require.Equal(t, TaskInpaintMask, picture(inside(3, 3, 70, 20)).Task, "long but thin")
	require.Equal(t, TaskInpaintMask, picture(inside(40, 20, 32, 32)).Task)
	require.Equal(t, TaskInpaintBox, picture(inside(40, 20, 33, 33)).Task)
	require.Equal(t, TaskInpaintBox, picture(inside(0, 0, 33, 64)).Task)
	require.Equal(t, TaskInpaintMask, picture(func(x, y int) bool { return (x+y)%7 != 0 }).Task, "scattered")
	small, err := CenterMask(64, 64, 32)
	require.NoError(t, err)
	require.Equal(t, TaskInpaintMask, small.Task)
	large, err := BoxMask(256, 256, 0, 1)
	require.NoError(t, err)
	require.Equal(t, TaskInpaintBox, large.Task)
}
