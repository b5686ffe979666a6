// Command differential tells, for every file of a folder, whether package weights accepts it: one line of name, verdict
// and error. tools/differential.py makes the folder and compares the verdicts with those of the safetensors package.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spin-native/spin/weights"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: differential FOLDER")
		os.Exit(2)
	}
	files, err := os.ReadDir(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "differential:", err)
		os.Exit(1)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(os.Args[1], f.Name()))
		if err != nil {
			fmt.Fprintln(os.Stderr, "differential:", err)
			os.Exit(1)
		}
		w, err := weights.OpenBytes(f.Name(), data)
		if err != nil {
			fmt.Printf("%s\trefused\t%q\n", f.Name(), err)
			continue
		}
		w.Close()
		fmt.Printf("%s\taccepted\t\n", f.Name())
	}
}
