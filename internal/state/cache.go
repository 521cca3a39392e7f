package state

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"banger"
)

// Cache keeps what Store.List read for as long as the folders of the store are
// as they were: a store may have a thousand records. It has inotify(7) watch
// them. The kernel queues an event before the change that it tells of returns,
// so a List that begins with all that is queued misses none. The zero value is
// ready. What List returns shares maps and slices with it, so nobody may change
// those.
type Cache[T any] struct {
	mu      sync.Mutex
	watcher watcher
	version uint64 // of the last list
	known   bool   // names are those of the store
	names   []string
	records map[string]*cached[T]
}

type cached[T any] struct {
	watch int
	kept  bool // value is that of the record
	value T
}

// watched are the changes of a store, or of the folder of a record, by which
// what List says may become another.
const watched = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MODIFY | unix.IN_ATTRIB |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW

// list is Store.ListVersion for a store with a cache.
func (c *Cache[T]) list(s Store[T]) ([]T, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.update(s.Dir)
	if !c.known {
		names, err := s.Names()
		if err != nil {
			return nil, 0, err
		}
		c.rename(names)
		c.version++
	}
	list := make([]T, 0, len(c.names))
	for _, name := range c.names {
		r := c.records[name]
		if r.kept {
			list = append(list, r.value)
			continue
		}
		c.version++
		if r.watch == 0 {
			r.watch = c.watcher.add(s.Path(name)) // before it is read
		}
		v, err := s.read(name)
		if banger.IsKind(err, banger.NotFound) {
			continue // it was removed since
		}
		if err == nil && r.watch > 0 {
			r.kept, r.value = true, v
		}
		list = append(list, v)
	}
	return list, c.version, nil
}

// update forgets what has changed since the last look.
func (c *Cache[T]) update(dir string) {
	events, ok := c.watcher.read()
	if !ok { // the first look, or too many changes to tell
		c.watcher.close()
		c.records, c.known = map[string]*cached[T]{}, false
		c.watcher.open(dir)
		return
	}
	if len(events) == 0 {
		return
	}
	byWatch := make(map[int]*cached[T], len(c.records))
	for _, r := range c.records {
		if r.watch > 0 {
			byWatch[r.watch] = r
		}
	}
	for _, e := range events {
		if e.watch != c.watcher.top {
			if r := byWatch[e.watch]; r != nil {
				r.kept = false
			}
			continue
		}
		c.known = false
		if r := c.records[e.name]; r != nil { // its name may be another folder's by now
			c.watcher.remove(r.watch)
			delete(c.records, e.name)
		}
	}
}

// rename takes over the names that there are now.
func (c *Cache[T]) rename(names []string) {
	old := c.records
	c.names, c.known, c.records = names, c.watcher.file != nil, make(map[string]*cached[T], len(names))
	for _, name := range names {
		if c.records[name] = old[name]; old[name] == nil {
			c.records[name] = &cached[T]{}
		}
		delete(old, name)
	}
	for _, r := range old {
		c.watcher.remove(r.watch)
	}
}

// watcher is one inotify instance. Where the kernel has none left for this user
// it watches nothing, and every List reads everything.
type watcher struct {
	file *os.File // nil: none; closed, if by nobody else, when nothing refers to it any more
	top  int      // watches the store itself
}

type change struct {
	watch int
	name  string // of a file in the folder that is watched
}

func (w *watcher) open(dir string) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return
	}
	w.file = os.NewFile(uintptr(fd), "inotify")
	if w.top = w.add(dir); w.top < 0 {
		w.close()
	}
}

func (w *watcher) close() {
	if w.file != nil {
		_ = w.file.Close()
	}
	*w = watcher{}
}

// add watches a folder; it gives -1 if that cannot be.
func (w *watcher) add(dir string) (watch int) {
	err := w.control(func(fd int) (err error) {
		watch, err = unix.InotifyAddWatch(fd, dir, watched)
		return err
	})
	if err != nil {
		return -1
	}
	return watch
}

// control runs f on the descriptor, and leaves it as it is, which Fd would not.
func (w *watcher) control(f func(fd int) error) error {
	if w.file == nil {
		return os.ErrClosed
	}
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	return errors.Join(raw.Control(func(fd uintptr) { inner = f(int(fd)) }), inner)
}

func (w *watcher) remove(watch int) {
	if watch > 0 {
		_ = w.control(func(fd int) error {
			_, err := unix.InotifyRmWatch(fd, uint32(watch))
			return err // of no interest: a watch goes by itself with its folder
		})
	}
}

// read gives what is queued; it is false where that cannot tell everything.
func (w *watcher) read() (events []change, ok bool) {
	buf := make([]byte, 64<<10)
	for {
		n := 0
		err := w.control(func(fd int) (err error) {
			n, err = unix.Read(fd, buf)
			return err
		})
		if errors.Is(err, unix.EAGAIN) {
			return events, true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, false
		}
		for b := buf[:max(n, 0)]; len(b) >= unix.SizeofInotifyEvent; { // struct inotify_event of inotify(7)
			mask, size := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
			e := change{int(int32(binary.NativeEndian.Uint32(b))), strings.TrimRight(string(b[unix.SizeofInotifyEvent:][:size]), "\x00")}
			b = b[unix.SizeofInotifyEvent+size:]
			if mask&unix.IN_Q_OVERFLOW != 0 || e.watch == w.top && mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT) != 0 {
				return nil, false
			}
			if mask&unix.IN_IGNORED == 0 {
				events = append(events, e)
			}
		}
	}
}
