#!/bin/sh
# Makes the vmlinux.* files beside it: one small ELF kernel, packed by the tools
# and options of the kernel's own build (linux/scripts/Makefile.lib, xz_wrap.sh),
# with the size word that it appends. What the tests expect of it is in
# decompress_test.go; the digest it prints at the end goes there too.
# Needs: apt-get install -y --no-install-recommends gcc gzip xz-utils lz4 zstd bzip2
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

printf '#\n# Linux/x86 6.1.0-test Kernel Configuration\n#\nCONFIG_VIRTIO_MMIO=y\nCONFIG_IKCONFIG=y\n' | gzip -n -9 > "$tmp/config.gz"

# The many calls of one function are what the x86 filter of xz changes.
cat > "$tmp/vmlinux.S" <<'S'
	.text
	.globl _start
_start:
	.set i, 0
	.rept 1000
	call target
	mov $i, %eax
	.set i, i + 77773
	.endr
target:
	ret
	.section .rodata, "a"
	.ascii "Linux version %s, as other strings have it\0"
	.ascii "Linux version 6.1.0-test (builder@host) (gcc, GNU ld) #1 SMP\n\0"
	.ascii "IKCFG_ST"
	.incbin "config.gz"
	.ascii "IKCFG_ED"
	.section .note.Xen, "a", @note
	.balign 4
	.long 4, 8, 18
	.asciz "Xen"
	.quad 0x1000000
S
(cd "$tmp" && gcc -nostdlib -static -Wl,--build-id=none -Wl,-z,noexecstack -s -o vmlinux vmlinux.S)

size() { # the unpacked size, little-endian
	n=$(stat -c %s "$tmp/vmlinux")
	for shift in 0 8 16 24; do
		printf '%b' "\\0$(printf %o $((n >> shift & 255)))"
	done
}
pack() { # KIND COMMAND...
	kind=$1
	shift
	"$@" < "$tmp/vmlinux" > "vmlinux.$kind"
	[ "$kind" = gzip ] || size >> "vmlinux.$kind" # gzip ends with it anyway
}
pack gzip gzip -n -9
pack xz xz --check=crc32 --x86 --lzma2=dict=32MiB
pack lz4 lz4 -l -c1 - -
pack zstd zstd -q -22 --ultra
pack bzip2 bzip2 -9
pack lzma lzma -9
sha256sum "$tmp/vmlinux"
ls -l vmlinux.*
