package share

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"
)

// Nothing that is swapped while the guest walks leads out of the folder.
func TestSwapped(t *testing.T) {
	base := t.TempDir()
	dir, outside := base+"/shared", base+"/outside"
	for _, d := range []string{dir + "/d", outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/d/f", "inside")
	write(t, outside+"/f", "secret")
	if err := os.Symlink(outside, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, dir+"/d", unix.AT_FDCWD, dir+"/link", unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer swapping.Wait()
	defer close(stop)
	root := attach(t, dir, false)
	seen := 0
	for i := 0; seen < 200 && i < 100_000; i++ {
		_, f, err := root.Walk([]string{"d", "f"})
		if err != nil {
			// A name may lead nowhere at the moment, or to the link.
			_, d, err := root.Walk([]string{"d"})
			if err != nil {
				continue
			}
			if _, _, g, err := d.Create("made", p9.WriteOnly, 0o600, 0, 0); err == nil {
				_ = g
			}
			_ = d.Close()
			continue
		}
		if _, _, err := f.Open(p9.ReadOnly); err == nil {
			b := make([]byte, 16)
			n, _ := f.ReadAt(b, 0)
			if string(b[:n]) != "inside" {
				t.Fatalf("read %q", b[:n])
			}
			seen++
		}
		_ = f.Close()
	}
	if seen == 0 {
		t.Error("the folder was never there")
	}
	if names, _ := filepath.Glob(outside + "/*"); len(names) != 1 {
		t.Errorf("made outside: %v", names)
	}
}

// A symlink is a text: the guest resolves it in its own tree.
func TestSymlinks(t *testing.T) {
	dir := t.TempDir()
	for name, to := range map[string]string{"root": "/", "up": "../..", "passwd": "/etc/passwd"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	root := attach(t, dir, false)
	for _, way := range [][]string{{"root", "etc"}, {"up", "etc"}, {"passwd", "x"}} {
		if qids, _, err := root.Walk(way); err == nil && len(qids) > 1 {
			t.Errorf("walked to %q", way)
		}
	}
	link := clone(t, root, "passwd")
	for what, err := range map[string]error{
		"open":  third(link.Open(p9.ReadOnly)),
		"cut":   link.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{}),
		"chmod": link.SetAttr(p9.SetAttrMask{Permissions: true}, p9.SetAttr{Permissions: 0o777}),
	} {
		if err == nil {
			t.Errorf("%s follows a link", what)
		}
	}
	_, _, _, err := clone(t, root).Create("passwd", p9.ReadWrite, 0o600, 0, 0)
	if err == nil {
		t.Error("create follows a link")
	}
	// A link to a link is a link to that, not to its target.
	if err := root.Link(link, "copy"); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(dir + "/copy"); err != nil || to != "/etc/passwd" {
		t.Errorf("linked %q, %v", to, err)
	}
}

func third(_ p9.QID, _ uint32, err error) error { return err }

// What would hang, or do something, when it is opened is not opened.
func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/pipe", 0o666); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	root := attach(t, dir, false)
	for _, name := range []string{"pipe", "socket", "null"} {
		for _, flags := range []p9.OpenFlags{p9.ReadOnly, p9.WriteOnly, p9.ReadWrite} {
			// The test's own client refuses some of it by itself: see the raw one.
			if _, _, err := clone(t, root, name).Open(flags); !errors.Is(err, linux.EPERM) {
				t.Errorf("open %s with %d: %v", name, flags, err)
			}
			if _, _, _, err := clone(t, root).Create(name, flags, 0o600, 0, 0); err == nil {
				t.Errorf("create opens %s", name)
			}
		}
	}
}

// raw is a guest that keeps to no protocol.
type raw struct {
	t *testing.T
	c net.Conn
}

func newRaw(t *testing.T, dir string) *raw {
	r := &raw{t, serve(t, open(t, dir, false))}
	r.send(tVersion, 0xffff, le(uint32(MaxMessage)), str("9P2000.L"))
	if typ, _, body := r.answer(); typ != tVersion+1 || !bytes.HasSuffix(body, []byte("9P2000.L")) {
		t.Fatalf("version: %d %q", typ, body)
	}
	r.send(tAttach, 1, le(uint32(0)), le(^uint32(0)), str("root"), str(""), le(uint32(0)))
	if typ, _, _ := r.answer(); typ != tAttach+1 {
		t.Fatalf("attach: %d", typ)
	}
	return r
}

func le(v any) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		panic(err)
	}
	return b
}

func str(s string) []byte { return append(le(uint16(len(s))), s...) }

func (r *raw) send(typ uint8, tag uint16, parts ...[]byte) {
	r.t.Helper()
	body := bytes.Join(parts, nil)
	m := append(le(uint32(len(body)+headerSize)), typ)
	m = append(append(m, le(tag)...), body...)
	_ = r.c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := r.c.Write(m); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) answer() (typ uint8, tag uint16, body []byte) {
	r.t.Helper()
	var h [headerSize]byte
	if _, err := io.ReadFull(r.c, h[:]); err != nil {
		r.t.Fatal(err)
	}
	body = make([]byte, binary.LittleEndian.Uint32(h[:])-headerSize)
	if _, err := io.ReadFull(r.c, body); err != nil {
		r.t.Fatal(err)
	}
	return h[4], binary.LittleEndian.Uint16(h[5:]), body
}

// refused expects an error of that number.
func (r *raw) refused(what string, want unix.Errno) {
	r.t.Helper()
	typ, _, body := r.answer()
	if typ != rLerror || unix.Errno(binary.LittleEndian.Uint32(body)) != want {
		r.t.Errorf("%s: answer %d %x, want %v", what, typ, body, want)
	}
}

// hungUp expects the end of the connection.
func (r *raw) hungUp(what string) {
	r.t.Helper()
	_ = r.c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, r.c); err != nil {
		r.t.Errorf("%s: %v", what, err)
	}
}

func TestNonsense(t *testing.T) {
	dir := t.TempDir()
	r := newRaw(t, dir)
	fid, count := le(uint32(0)), le(^uint32(0))
	for _, tc := range []struct {
		what string
		typ  uint8
		body [][]byte
		want unix.Errno
	}{
		{"an unknown request", 200, nil, unix.EOPNOTSUPP},
		{"extended attributes", 30, [][]byte{fid, le(uint32(9)), str("user.a")}, unix.EOPNOTSUPP},
		{"a request cut short", tGetattr, [][]byte{{1}}, unix.EPROTO},
		{"a name cut short", tMkdir, [][]byte{fid, le(uint16(900)), []byte("a")}, unix.EPROTO},
		{"an unknown fid", tGetattr, [][]byte{le(uint32(77)), le(uint64(0))}, unix.EBADF},
		{"a read of what is not open", tRead, [][]byte{fid, le(uint64(0)), count}, unix.EBADF},
		{"a write longer than its message", tWrite, [][]byte{fid, le(uint64(0)), count, []byte("a")}, unix.EPROTO},
		{"an empty name", tMkdir, [][]byte{fid, str(""), le(uint32(0)), le(uint32(0))}, unix.EINVAL},
		{"a name with a zero", tMkdir, [][]byte{fid, str("a\x00b"), le(uint32(0)), le(uint32(0))}, unix.EINVAL},
		{"a rename up", tRenameat, [][]byte{fid, str("a"), fid, str("..")}, unix.EINVAL},
		{"too many names", tWalk, [][]byte{fid, le(uint32(1)), le(uint16(1000))}, unix.EINVAL},
		{"a fid that is taken", tWalk, [][]byte{fid, fid, le(uint16(1)), str("x")}, unix.ENOENT},
		{"an attach elsewhere", tAttach, [][]byte{le(uint32(5)), count, str(""), str("/etc"), fid}, unix.ENOENT},
	} {
		r.send(tc.typ, 1, tc.body...)
		r.refused(tc.what, tc.want)
	}
	// Offsets that no file has.
	write(t, dir+"/f", "text")
	r.send(tWalk, 1, fid, le(uint32(2)), le(uint16(1)), str("f"))
	r.answer()
	r.send(tLopen, 1, le(uint32(2)), le(uint32(unix.O_RDWR)))
	r.answer()
	r.send(tRead, 1, le(uint32(2)), le(^uint64(0)), count)
	r.refused("a read before the beginning", unix.EINVAL)
	r.send(tRead, 1, le(uint32(2)), le(uint64(0)), count)
	if typ, _, body := r.answer(); typ != tRead+1 || string(body[4:]) != "text" {
		t.Errorf("read as much as there is: %d %q", typ, body)
	}
	// Locks are the guest's own affair.
	lock := [][]byte{le(uint32(2)), {1}, le(uint32(0)), le(uint64(0)), le(uint64(0)), le(uint32(5)), str("guest")}
	r.send(tLock, 1, lock...)
	if typ, _, body := r.answer(); typ != tLock+1 || body[0] != lockSuccess {
		t.Errorf("lock: %d %x", typ, body)
	}
	r.send(tGetlock, 1, append(lock[:2:2], lock[3:]...)...)
	if typ, _, body := r.answer(); typ != tGetlock+1 || body[0] != lockUnlocked {
		t.Errorf("getlock: %d %x", typ, body)
	}
	// A flush is answered, whatever it names.
	r.send(tFlush, 9, le(uint16(9)))
	if typ, tag, _ := r.answer(); typ != tFlush+1 || tag != 9 {
		t.Errorf("flush: %d %d", typ, tag)
	}
}

func TestHangsUp(t *testing.T) {
	for what, m := range map[string][]byte{
		"a message that is too long":  {0, 0, 0, 0x10, tRead, 0, 0},
		"a message that is too short": {3, 0, 0, 0, tRead, 0, 0},
		"another version":             append([]byte{21, 0, 0, 0, tVersion, 0, 0}, append(le(uint32(8192)), str("9P2000.L")...)...),
	} {
		r := newRaw(t, t.TempDir())
		_ = r.c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := r.c.Write(m); err != nil {
			t.Fatal(err)
		}
		r.hungUp(what)
	}
}

// A guest has so many descriptors and no more, and all are closed at its end.
func TestBounds(t *testing.T) {
	before := descriptors(t)
	f := open(t, t.TempDir(), false)
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- f.Serve(theirs) }()
	r := &raw{t, ours}
	r.send(tVersion, 0, le(uint32(MaxMessage)), str("9P2000.L"))
	r.answer()
	refused := 0
	for i := range uint32(maxFids + 10) {
		r.send(tAttach, 1, le(i), le(^uint32(0)), str("root"), str(""), le(uint32(0)))
		if typ, _, body := r.answer(); typ == rLerror && unix.Errno(binary.LittleEndian.Uint32(body)) == unix.EMFILE {
			refused++
		}
	}
	if refused != 10 {
		t.Errorf("%d were refused, want 10", refused)
	}
	_ = ours.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	_ = f.Close()
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are left", after-before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// A guest that reads no answers is asked for no more than it may have under way,
// and the end of its connection ends all of it.
func TestDeaf(t *testing.T) {
	ours, theirs := net.Pipe()
	f := open(t, t.TempDir(), false)
	done := make(chan error, 1)
	go func() { done <- f.Serve(theirs) }()
	r := &raw{t, ours}
	r.send(tVersion, 0, le(uint32(MaxMessage)), str("9P2000.L"))
	r.answer()
	sent := 0
	_ = ours.SetDeadline(time.Now().Add(time.Second))
	for tag := range uint16(4 * maxRequests) {
		m := append(append(le(uint32(headerSize+4)), tClunk), le(tag)...)
		if _, err := ours.Write(append(m, 0, 0, 0, 0)); err != nil {
			break
		}
		sent++
	}
	if sent > 2*maxRequests {
		t.Errorf("%d requests were taken", sent)
	}
	_ = ours.Close()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("Serve does not return")
	}
}
