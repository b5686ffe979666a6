package study

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
)

func TestJournal(t *testing.T) {
	type entry struct{ A int }
	path := filepath.Join(t.TempDir(), "j.jsonl")
	j, err := OpenJournal[entry](path)
	require.NoError(t, err)
	require.NoError(t, j.Add(entry{1}))
	require.NoError(t, j.Add(entry{2}))
	require.NoError(t, j.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(text, `{"A":3`...), 0o644)) // stopped in the middle of a line
	j, err = OpenJournal[entry](path)
	require.NoError(t, err)
	require.Equal(t, []entry{{1}, {2}}, j.Entries)
	require.NoError(t, j.Add(entry{4}))
	require.NoError(t, j.Close())
	text, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "{\"A\":1}\n{\"A\":2}\n{\"A\":4}\n", string(text))
	require.NoError(t, os.WriteFile(path, []byte("no JSON\n"), 0o644))
	_, err = OpenJournal[entry](path)
	require.ErrorContains(t, err, "line 1")
}

func TestTurn(t *testing.T) {
	truth := Photo{Image: imagefile.New(12, 13)}
	turned := imagefile.New(12, 13)
	n := len(truth.Image.Pix)
	for i := range n {
		truth.Image.Pix[i] = float32(i)/float32(n)*2 - 1
	}
	for i := range n {
		turned.Pix[n-3-i/3*3+i%3] = truth.Image.Pix[i]
	}
	o := &Outcome{Image: turned}
	require.NoError(t, o.score(truth))
	require.Less(t, o.PSNR, 10.0)
	require.NoError(t, o.Turn(truth))
	require.Greater(t, o.PSNR, 100.0)
	require.NoError(t, o.Turn(truth))
	require.Greater(t, o.PSNR, 100.0, "what is right stays")
}

func TestPhotos(t *testing.T) {
	dir := t.TempDir()
	_, err := Photos(dir, "")
	require.ErrorContains(t, err, "-photos")
	for _, name := range []string{"cat", "dog"} {
		require.NoError(t, imagefile.Write(filepath.Join(dir, name+"_256.png"), imagefile.New(4, 4), false))
	}
	all, err := Photos(dir, "")
	require.NoError(t, err)
	require.Len(t, all, 2)
	one, err := Photos(dir, " dog ,")
	require.NoError(t, err)
	require.Len(t, one, 1)
	require.Equal(t, "dog", one[0].Name)
	_, err = Photos(dir, "dog,cow")
	require.ErrorContains(t, err, "cow")
}
