package catalogs

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain plays a process that refreshes a catalog without end, to be killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == "refresh" {
		r := &Reader{Dir: os.Args[2]}
		o := Origin{Kind: "kernel", URL: os.Args[3], Key: os.Args[4]}
		for {
			if b := Load(context.Background(), r, []Origin{o}, 0, names)[0]; b.Err != nil || b.Stale != nil {
				fmt.Println(b.Err, b.Stale)
			}
			fmt.Println("again")
		}
	}
	os.Exit(m.Run())
}

// Killed at whatever moment, it leaves the copy as it was or as it was to be.
func TestKilledInRefresh(t *testing.T) {
	s, k := newServer(t), keygen(t)
	versions := []string{catalog(1, "a"), catalog(1, strings.Fields(strings.Repeat("b ", 3000))...)}
	sigs := []string{string(k.sign(versions[0])), string(k.sign(versions[1]))}
	turn := 0
	s.put(catalogPath, "")
	s.put(catalogPath+".sig", "")
	s.hold = func(path string) {
		// Another version each time, before the signature is asked for.
		if path == catalogPath {
			s.put(catalogPath+".sig", sigs[turn%2])
			turn++
			s.put(catalogPath, versions[turn%2])
		}
	}
	s.put(catalogPath, versions[0])
	dir := t.TempDir()
	for i := range 4 {
		cmd := exec.Command("/proc/self/exe", "refresh", dir, s.URL+catalogPath, k.pub)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		scan := bufio.NewScanner(out)
		for range 3 {
			if !scan.Scan() || scan.Text() != "again" {
				t.Errorf("it says %q", scan.Text())
			}
		}
		time.Sleep(time.Duration(i) * 2500 * time.Microsecond) // to meet it at another place each time
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		r := &Reader{Dir: dir}
		b := Load(t.Context(), r, []Origin{{Kind: "kernel", URL: s.URL + catalogPath, Key: k.pub}}, time.Hour, names)[0]
		if b.Err != nil || b.Stale != nil || len(b.Catalog) != 1 && len(b.Catalog) != 3000 {
			t.Errorf("after the kill: %d names, %v, %v", len(b.Catalog), b.Err, b.Stale)
		}
	}
}
