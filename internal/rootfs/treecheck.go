package rootfs

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"banger"
)

// Check goes through all files of the tree and compares them with what the file
// system says of itself: every name leads to an inode in use, the links are as
// many as the names, and all contents are in the file system; of ext4 also that
// no block belongs to two files and every block in use is marked so. It gives
// the number of inodes. e2fsck -fn and fsck.erofs do more; this needs no
// program. Errors are those of OpenTree.
func (t *Tree) Check(ctx context.Context) (inodes int, err error) {
	links := map[uint32]uint32{}
	err = t.walkTree(ctx, func(name string, i *inode, _ string) error {
		links[i.number]++
		if i.isDir() {
			links[i.number]++ // its own "."
			links[i.parent]++ // its ".."; the root's leads to itself
			if name == "" {
				links[i.number]--
			}
		}
		return nil
	})
	numbers := slices.Sorted(maps.Keys(links))
	if err == nil {
		err = t.checkLinks(ctx, numbers, links)
	}
	if err == nil {
		err = t.check(ctx, numbers)
	}
	if err != nil && ctx.Err() != nil {
		err = banger.Errorf(banger.Canceled, "%w", context.Cause(ctx))
	}
	return len(links), err
}

// checkLinks wants every inode to have as many names as it says.
func (t *Tree) checkLinks(ctx context.Context, numbers []uint32, links map[uint32]uint32) error {
	for k, number := range numbers {
		if k%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		i, err := t.inode(number)
		if err != nil {
			return fmt.Errorf("inode %d: %w", number, err)
		}
		// A directory with too many subdirectories to count says 1.
		if i.links != links[number] && !(i.isDir() && i.links == 1) {
			return invalid("inode %d has %d names, it says %d", number, links[number], i.links)
		}
	}
	return nil
}
