package rootfs

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"runtime"
	"testing"

	"banger"
)

// manyFiles is a layer of so many files of a byte, a thousand in a directory,
// that is made while it is read.
func manyFiles(n int) Layer {
	return Layer{Open: func(context.Context) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() {
			b := bufio.NewWriterSize(w, 1<<20)
			t := tar.NewWriter(b)
			var err error
			for i := 0; i < n && err == nil; i++ {
				err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/share/directory-%d/file-%d", i/1000, i), Mode: 0o644, Size: 1})
				if err == nil {
					_, err = t.Write([]byte{'x'})
				}
			}
			if err == nil {
				err = t.Close()
			}
			if err == nil {
				err = b.Flush()
			}
			w.CloseWithError(err)
		}()
		return r, nil
	}}
}

// heapOf builds from a layer of so many files and gives what the heap grew by
// for each of them: when all are read, and at the end with what is not collected.
func heapOf(tb testing.TB, files int) (read, end uint64) {
	tb.Helper()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtime.GC()
	before := heap()
	_, err := Build(tb.Context(), tb.TempDir()+"/image", []Layer{manyFiles(files)}, Options{Progress: func(p banger.Progress) {
		if p.Step == "write file system" {
			runtime.GC()
			read = heap() - before
		}
	}})
	if err != nil {
		tb.Fatal(err)
	}
	return read / uint64(files), (heap() - before) / uint64(files)
}

// TestManyFiles looks at what an entry takes in memory. It is not parallel:
// other tests would be in its numbers.
func TestManyFiles(t *testing.T) {
	if read, end := heapOf(t, 20_000); read > 600 || end > 1200 {
		t.Errorf("an entry takes %d bytes of memory when it is read, and %d at the end", read, end)
	}
}

// BenchmarkMillionFiles is a layer of a million small files.
func BenchmarkMillionFiles(b *testing.B) {
	for b.Loop() {
		read, end := heapOf(b, 1_000_000)
		b.ReportMetric(float64(read), "read-B/entry")
		b.ReportMetric(float64(end), "end-B/entry")
	}
}
