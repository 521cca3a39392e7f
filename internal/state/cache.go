package state

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// Cache keeps what Store.List read, for as long as the files are the same: a
// store may have a thousand records, and two looks at one are cheaper than to
// read it. The zero value is ready. What List returns shares maps and slices
// with it, so nobody may change those.
type Cache[T any] struct {
	last atomic.Pointer[map[string]*cached[T]]
	now  func() time.Time // a test's clock
}

type cached[T any] struct {
	seen  stamps
	value T
}

// stamps tell whether a record is still what it was: its file, and its folder
// for the names of the files beside it.
type stamps struct {
	file, dir stamp
	ok        bool // both are there
}

type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// settled is how old a change must be to be seen by its time alone: file
// systems count time in ticks of some milliseconds, and a second change in the
// same tick would not show.
const settled = time.Second

// fresh reports whether a change may yet hide behind the stamps.
func (s stamps) fresh(now time.Time) bool {
	return now.Sub(time.Unix(s.file.ctime.Unix())) < settled || now.Sub(time.Unix(s.dir.ctime.Unix())) < settled
}

// look takes the stamps of the record of name below the open directory.
func look(dir int, name, file string) (s stamps) {
	s.file, s.ok = lookAt(dir, name+"/"+file)
	if s.ok {
		s.dir, s.ok = lookAt(dir, name)
	}
	return s
}

func lookAt(dir int, path string) (stamp, bool) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, path, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return stamp{}, false
	}
	return stamp{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}, true
}

// list is Store.List for a store with a cache.
func (c *Cache[T]) list(s Store[T], names []string) []T {
	dir, err := unix.Open(s.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(dir)
	}
	var old map[string]*cached[T]
	if p := c.last.Load(); p != nil {
		old = *p
	}
	kept := make(map[string]*cached[T], len(names))
	list := make([]T, 0, len(names))
	now := time.Now()
	if c.now != nil {
		now = c.now()
	}
	for i, seen := range lookAll(dir, names, s.File) {
		name := names[i]
		if was := old[name]; was != nil && seen.ok && was.seen == seen {
			kept[name] = was
			list = append(list, was.value)
			continue
		}
		v, err := s.read(name)
		if banger.IsKind(err, banger.NotFound) {
			continue // it was removed since
		}
		if seen.ok && err == nil && !seen.fresh(now) {
			kept[name] = &cached[T]{seen, v}
		}
		list = append(list, v)
	}
	c.last.Store(&kept)
	return list
}

// lookAll takes the stamps of all records, in as many threads as there are CPUs:
// system calls are nearly all that there is to do.
func lookAll(dir int, names []string, file string) []stamps {
	all := make([]stamps, len(names))
	part := max(64, (len(names)+runtime.NumCPU()-1)/runtime.NumCPU())
	var running sync.WaitGroup
	for from := 0; from < len(names); from += part {
		running.Go(func() {
			for i := from; i < min(from+part, len(names)); i++ {
				all[i] = look(dir, names[i], file)
			}
		})
	}
	running.Wait()
	return all
}
