package rootfs

import (
	"cmp"
	"slices"
	"sync"
)

// maxLanes is how many layers are read at the same time. It is the same on all
// hosts, because the places of the contents follow from it.
const maxLanes = 4

// Blocks of an image that a lane gets at a time: enough that large files stay in
// one piece.
const (
	laneUnit = unit / blockSize     // a piece of a file is never cut
	minPart  = 1 << 20 / blockSize  //
	maxPart  = 64 << 20 / blockSize // of a lane of unknown size
)

// lanes hands out blocks to layers that are written at the same time, so that
// where each of them is written does not depend on which of them is faster: the
// image is cut into rounds, and each round into one part for each lane. A round
// is cut when the first lane is through with the one before. Lanes of layers that
// unpack to less than others of their size leave holes, which cost addresses,
// not space.
type lanes struct {
	mu     sync.Mutex
	blocks *allocator
	sizes  []int64 // blocks of each lane's layers as transferred, 0 where not known
	round  int
	queue  [][]run // of each lane: cut, and not taken yet
	end    int64   // of what is in use
}

// run is a run of blocks.
type run struct{ start, count int64 }

// newLanes makes lanes for layers of so many bytes each.
func newLanes(blocks *allocator, sizes ...int64) *lanes {
	l := &lanes{blocks: blocks, queue: make([][]run, len(sizes)), end: blocks.next}
	for _, n := range sizes {
		l.sizes = append(l.sizes, n/blockSize)
	}
	return l
}

// part is how many blocks a lane gets in this round: of a layer whose size is
// known at first twice as much, which is less than most unpack to.
func (l *lanes) part(lane int) int64 {
	size := l.sizes[lane]
	n := size / 4
	switch {
	case size == 0:
		n = min(int64(minPart)<<min(l.round, 10), maxPart)
	case l.round == 0:
		n = 2 * size
	}
	return (max(n, minPart) + laneUnit - 1) / laneUnit * laneUnit
}

// next gives a lane its next run of at least laneUnit blocks.
func (l *lanes) next(lane int) (run, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue[lane]) == 0 {
		err := l.cut()
		if err != nil && len(l.queue[lane]) == 0 {
			return run{}, err
		}
	}
	r := l.queue[lane][0]
	l.queue[lane] = l.queue[lane][1:]
	return r, nil
}

// cut cuts a round. A part goes around copies of the superblock.
func (l *lanes) cut() error {
	for lane := range l.sizes {
		for left := l.part(lane); left > 0; {
			start, n, err := l.blocks.takeSome(laneUnit, max(left, laneUnit))
			if err != nil {
				return err
			}
			l.queue[lane] = append(l.queue[lane], run{start, n})
			left -= n
		}
	}
	l.round++
	return nil
}

// close notes how far a lane was used.
func (l *lanes) close(end int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = max(l.end, end)
}

// finish gives back what no lane has used. What follows is written behind it.
func (l *lanes) finish() { l.blocks.next = l.end }

// assign deals layers out to lanes: the largest first, each to the lane that has
// least. The first of a lane is its largest.
func assign(layers []Layer) (ofLane [][]int, sizes []int64) {
	n := min(len(layers), maxLanes)
	ofLane, sizes = make([][]int, n), make([]int64, n)
	order := make([]int, len(layers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(layers[j].Size, layers[i].Size) })
	for _, i := range order {
		best := 0
		for lane := range n {
			if len(ofLane[lane]) == 0 || sizes[lane] < sizes[best] {
				best = lane
				if len(ofLane[lane]) == 0 {
					break
				}
			}
		}
		ofLane[best] = append(ofLane[best], i)
		sizes[best] += layers[i].Size
	}
	return ofLane, sizes
}
