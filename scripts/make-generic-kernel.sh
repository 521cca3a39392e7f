#!/usr/bin/env bash
# make-generic-kernel.sh: build generic-6.x, a guest kernel with every driver built in, of the options in
# kernels/generic-x86_64.config. The manual is the text of usage below; how it works:
#
#   - What decides the result is the source, the options, the recipe (the functions options to bundle
#     below) and the compiler. A hash of them is the result's key, and CACHE/KEY holds what was built:
#     vmlinux, config, metadata.json (a folder for `banger kernel import --from`) and NAME.tar.zst.
#   - CACHE/current is a link to the one asked for last, a stable name for tests.
#   - One build at a time has CACHE/lock, in CACHE/new.*; that is renamed to KEY when it is complete.
#     What a killed build left there the next one removes. Results not asked for in 30 days go as well.
#   - The same key gives the same bytes, wherever, whenever and by whom it is built: the time stamps are
#     the source's, user and host are made up, no path of the build gets into the kernel, and nothing of
#     the caller's environment gets into the build. The time of a source is SOURCE_DATE_EPOCH, else its
#     last commit, else the date of its Makefile, which tarballs keep.
set -euo pipefail
export LC_ALL=C
umask 022

self=${BASH_SOURCE[0]##*/}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fragment=$root/kernels/generic-x86_64.config
source=apt
out=$root/dist
cache=${BANGER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/banger-test}/generic
jobs=
base_url=
work=   # CACHE/new.*, while there is one
staged= # OUT/.new.*, while there is one
child=

usage() {
	cat <<-EOF
		usage: scripts/$self [--source apt|apt:PACKAGE|TARBALL|DIR] [--out DIR] [--cache DIR] [--jobs N] [--base-url URL]

		Build a Linux kernel for microVMs, with every driver built in: no modules, no initrd.

		  --source WHAT   apt          Debian's linux-source, as this host's apt knows it (default);
		                               it is downloaded and verified, not installed
		                  apt:PACKAGE  the same, of that package, for instance linux-source-6.12
		                  TARBALL      an upstream linux-6.x.tar.xz (or gz, bz2, zst)
		                  DIR          an unpacked, unbuilt tree; nothing is written into it
		  --out DIR       where the results go (default: dist in this checkout)
		  --cache DIR     where results are kept (default: \$BANGER_TEST_CACHE/generic, else
		                  ~/.cache/banger-test/generic); 3 GB are needed there for the time of a build
		  --jobs N        compilers at once (default: one a CPU)
		  --base-url URL  where the bundle will be hosted, for its catalog entry (default: beside the catalog)

		In DIR of --out it leaves, for instance of Linux 6.1:
		  generic-6.1/          vmlinux, config and metadata.json, for banger kernel import
		  generic-6.1.tar.zst   the same as a bundle, for banger kernel pull
		  generic-6.1.json      the bundle's entry for a kernel catalog

		It needs what scripts/setup kernel installs, and no root. A second run with the same source is instant.
	EOF
}

say() { echo "$self: $*" >&2; }
die() {
	say "$@"
	exit 1
}

# run COMMAND...: as a child that ends with this script, be that told to end or killed.
run() {
	setpriv --pdeathsig TERM "$@" &
	child=$!
	local status=0
	wait "$child" || status=$?
	child=
	return "$status"
}

# shellcheck disable=SC2317 # a trap calls it
end() {
	trap '' INT TERM HUP
	if [ -n "$child" ]; then
		kill "$child" 2>/dev/null || true
		wait "$child" 2>/dev/null || true
	fi
	# A compiler whose make has just ended may still write one file.
	[ -z "$work" ] || rm -rf "$work" 2>/dev/null || rm -rf "$work"
	[ -z "$staged" ] || rm -rf "$staged"
}

parse() {
	local made
	while [ $# -gt 0 ]; do
		case $1 in
		-h | --help) usage && exit ;;
		--source | --out | --cache | --jobs | --base-url)
			[ -n "${2-}" ] || misuse "$1 needs a value"
			;;
		*) misuse "unknown argument $1" ;;
		esac
		case $1 in
		--source) source=$2 ;;
		--out) out=$2 ;;
		--cache) cache=$2 ;;
		--jobs) jobs=$2 ;;
		--base-url) base_url=${2%/} ;;
		esac
		shift 2
	done
	# What make was told is meant for the compilers too; its job server is not passed on, nor anything else of it.
	if [ -z "$jobs" ] && [[ " ${MAKEFLAGS-}" =~ \ -j([0-9]+) ]]; then
		jobs=${BASH_REMATCH[1]}
	fi
	jobs=${jobs:-$(nproc)}
	[[ $jobs =~ ^[1-9][0-9]{0,3}$ ]] || misuse "--jobs is a number, not $jobs"
	[[ -z $base_url || $base_url =~ ^https?://[A-Za-z0-9._~:/@%+,=-]+$ ]] || misuse "--base-url is an http or https URL, not $base_url"
	[[ ${SOURCE_DATE_EPOCH-0} =~ ^[0-9]+$ ]] || misuse "SOURCE_DATE_EPOCH is a number of seconds, not $SOURCE_DATE_EPOCH"
	for made in "$out" "$cache"; do
		mkdir -p "$made" || die "cannot make the folder $made"
	done
	out=$(cd "$out" && pwd)
	cache=$(cd "$cache" && pwd)
}

misuse() {
	say "$@"
	echo "try: scripts/$self --help" >&2
	exit 2
}

# check_tools names the packages of what is missing, in one go.
check_tools() {
	local missing=() entry
	[ -r "$fragment" ] || die "cannot read $fragment"
	[ "$(uname -m)" = x86_64 ] || die "this host is $(uname -m): the options are for x86_64, and cross-compiling is not provided for"
	for entry in gcc:gcc make:make flex:flex bison:bison bc:bc perl:perl-base strip:binutils zstd:zstd tar:tar flock:util-linux setpriv:util-linux; do
		[ -n "$(type -P "${entry%:*}")" ] || missing+=("${entry#*:}")
	done
	# objtool, a part of the kernel that runs while it is built, needs the second.
	for entry in stdlib.h:libc6-dev gelf.h:libelf-dev; do
		[ -z "$(type -P gcc)" ] || gcc -E - <<<"#include <${entry%:*}>" >/dev/null 2>&1 || missing+=("${entry#*:}")
	done
	if [ ${#missing[@]} -gt 0 ]; then
		say "these packages are missing: ${missing[*]}; run:"
		echo "  scripts/setup kernel" >&2
		exit 1
	fi
}

# --- the source -------------------------------------------------------------------------------------------------

# locate finds out what exactly the source is, without getting it: source_id, a word that changes with it.
locate() {
	local made digest
	case $source in
	apt | apt:*) locate_package ;;
	*)
		if [ -d "$source" ]; then
			source=$(cd "$source" && pwd)
			check_tree "$source"
			for made in .config include/config arch/x86/include/generated; do
				[ ! -e "$source/$made" ] || die "$source has been built in ($made is there); run make mrproper in it, or give its tarball"
			done
			say "reading $source"
			digest=$(tar -C "$source" --exclude=./.git --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf - . | sha256sum) ||
				die "cannot read all of $source"
			source_id=dir:${digest%% *}:$(epoch_of "$source")
		elif [ -f "$source" ]; then
			source=$(realpath "$source")
			digest=$(sha256sum <"$source") || die "cannot read $source"
			source_id=file:${digest%% *}
		else
			misuse "--source is apt, apt:PACKAGE, a tarball or a folder; there is no $source"
		fi
		;;
	esac
}

# locate_package asks the host's apt, or with fresh lists our own; it returns 1 if that does not know the package.
locate_package() {
	local line hash
	[ -n "$(type -P apt-get)" ] ||
		die "this host has no apt; give the source with --source TARBALL (https://www.kernel.org has them) or --source DIR"
	package=${source#apt}
	package=${package#:}
	if [ -z "$package" ]; then
		# The meta package depends on that of the release's kernel.
		package=$(apt-cache show --no-all-versions linux-source 2>/dev/null | sed -n 's/^Depends: \(linux-source-[0-9.]*\).*/\1/p')
	fi
	[[ $package =~ ^[a-z0-9][a-z0-9+.-]+$ ]] || return 1
	# 'URI' FILE SIZE SHA256:HEX
	line=$(apt-get download --print-uris "$package" 2>/dev/null) || return 1
	read -r _ deb _ hash <<<"$line"
	[[ -n ${hash-} ]] || return 1
	source_id=deb:$deb:$hash
}

# fresh_lists makes apt work in a folder of our own, with the host's mirrors and keys and lists as of now.
fresh_lists() {
	say "getting apt's package lists"
	mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
	cat >"$work/apt/apt.conf" <<-EOF
		Dir::State::lists "$work/apt/lists/";
		Dir::Cache "$work/apt/cache/";
		APT::Sandbox::User "root";
		Acquire::Languages "none";
		#clear APT::Update::Pre-Invoke;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
	EOF
	export APT_CONFIG=$work/apt/apt.conf
	# Part of the lists may do; if not, the log says what went wrong.
	if run apt-get update -q >"$work/log" 2>&1; then
		rm "$work/log"
	fi
}

# get brings the source to $tree; it returns 1 if a package cannot be had.
get() {
	local packed=$source
	tree=$work/linux
	case $source in
	apt | apt:*)
		say "getting $deb"
		run env -C "$work" apt-get download -q -o APT::Sandbox::User=root "$package" >"$work/log" 2>&1 || return 1
		run dpkg-deb -x "$work/$deb" "$work/deb" || die "cannot unpack $deb"
		rm "$work/$deb"
		packed=$(find "$work/deb" -type f -path '*/usr/src/*' -name 'linux-source-*.tar.*' | head -n 1)
		[ -n "$packed" ] || die "package $package holds no /usr/src/linux-source-*.tar"
		;;
	*)
		if [ -d "$source" ]; then
			tree=$source
			return
		fi
		;;
	esac
	unpack "$packed"
	rm -rf "$work/deb"
	check_tree "$tree"
}

# unpack TARBALL: to $tree.
unpack() {
	local packed=$1 tool=
	case $packed in
	*.xz) tool=xz:xz-utils ;;
	*.bz2) tool=bzip2:bzip2 ;;
	*.zst) tool=zstd:zstd ;;
	esac
	[ -z "$tool" ] || [ -n "$(type -P "${tool%:*}")" ] || die "unpacking ${packed##*/} needs ${tool%:*}, of package ${tool#*:}"
	say "unpacking ${packed##*/}"
	mkdir "$tree"
	run tar -C "$tree" --strip-components=1 --no-same-owner -xf "$packed" || die "cannot unpack $packed"
}

# check_tree DIR: is it a kernel's source?
check_tree() {
	if [ ! -f "$1/Kconfig" ] || [ ! -d "$1/arch/x86" ] || ! grep -qs '^PATCHLEVEL = [0-9]' "$1/Makefile"; then
		die "$source is not the source of a Linux kernel: no Kconfig, arch/x86 or version in its Makefile"
	fi
}

epoch_of() {
	if [ -n "${SOURCE_DATE_EPOCH-}" ]; then
		echo "$SOURCE_DATE_EPOCH"
	else
		# Without .git there, git would take that of a folder above.
		{ [ -e "$1/.git" ] && git -c safe.directory="$1" -C "$1" log -1 --format=%ct 2>/dev/null; } || stat -c %Y "$1/Makefile"
	fi
}

# --- the recipe: these functions decide the bytes -----------------------------------------------------------------

# options VERSION: the lines of the fragment that hold for this version.
options() {
	awk -v version="$1" '
		function number(v, part) { split(v, part, "."); return part[1] * 1000 + part[2] }
		match($0, / # [0-9.]*\.\.[0-9.]*$/) {
			split(substr($0, RSTART + 3), range, /\.\./)
			$0 = substr($0, 1, RSTART - 1)
			if (range[1] != "" && number(version) < number(range[1])) next
			if (range[2] != "" && number(version) > number(range[2])) next
		}
		/^CONFIG_/ || /^# CONFIG_[A-Za-z0-9_]+ is not set$/' "$fragment"
}

# kbuild TARGET...: the kernel's make, with an environment of its own.
kbuild() {
	run env -i PATH="$PATH" HOME="$work" TMPDIR="$work" LC_ALL=C TZ=UTC \
		LOCALVERSION= KBUILD_BUILD_USER=banger KBUILD_BUILD_HOST=banger KBUILD_BUILD_VERSION=1 \
		KBUILD_BUILD_TIMESTAMP="$(TZ=UTC date -d "@$epoch")" KCONFIG_ALLCONFIG="$work/options" \
		make -s -C "$tree" O="$work/build" "$@"
}

# configure applies the options, and fails with the list of those that Kconfig did not take.
configure() {
	local line symbol refused=()
	local -A got=()
	mkdir "$work/build"
	options "$version" >"$work/options"
	kbuild allnoconfig >"$work/log" 2>&1 || broken "configuring $name"
	while IFS= read -r line; do
		symbol=${line#\# }
		got[${symbol%%[ =]*}]=$line
	done < <(grep -E '^(CONFIG_|# CONFIG_)' "$work/build/.config")
	while IFS= read -r line; do
		symbol=${line#\# }
		symbol=${symbol%%[ =]*}
		# An option that is not there is off, too.
		[ "${got[$symbol]-}" = "$line" ] || [[ $line == \#* && -z ${got[$symbol]-} ]] || refused+=("$line (got ${got[$symbol]-none})")
	done <"$work/options"
	mapfile -t -O ${#refused[@]} refused < <(grep '=m$' "$work/build/.config")
	if [ ${#refused[@]} -gt 0 ]; then
		say "Linux $version did not take these options:"
		printf '  %s\n' "${refused[@]}" >&2
		die "see what they depend on there, or give the versions that know them a range in ${fragment#"$root/"}"
	fi
}

# compile makes the kernel, stripped.
compile() {
	local path
	say "compiling $name with $jobs jobs: 15 minutes of one CPU"
	kbuild -j"$jobs" vmlinux >"$work/log" 2>&1 || broken "compiling $name"
	kernel_version=$(<"$work/build/include/config/kernel.release")
	mkdir "$work/result"
	strip -o "$work/result/vmlinux" "$work/build/vmlinux"
	chmod 644 "$work/result/vmlinux"
	cp "$work/build/.config" "$work/result/config"
	for path in "$work" "$tree"; do
		! grep -qF "$path" "$work/result/vmlinux" || die "the kernel holds the path of its build, $path: it would not be reproducible"
	done
}

# bundle packs the results.
bundle() {
	cat >"$work/result/metadata.json" <<-EOF
		{
		  "name": "$name",
		  "distro": "generic",
		  "arch": "x86_64",
		  "kernel_version": "$kernel_version",
		  "description": "Linux $version, every driver a microVM needs built in: no modules, no initrd"
		}
	EOF
	tar -C "$work/result" --format=ustar --sort=name --owner=0 --group=0 --numeric-owner --mode=644 --mtime="@$epoch" \
		-cf "$work/tar" config metadata.json vmlinux
	run zstd -q -19 --single-thread "$work/tar" -o "$work/result/$name.tar.zst" || die "cannot compress the bundle"
}

# --- build and publish --------------------------------------------------------------------------------------------

# broken WHAT: the end of the log, then the end.
broken() {
	tail -n 40 "$work/log" >&2
	if [ "$(df -Pk "$work" | awk 'NR == 2 { print $4 }')" -lt 10240 ]; then
		die "$1: no space left in $cache"
	fi
	die "$1 went wrong, see above"
}

key_of() {
	{
		echo "$source_id ${SOURCE_DATE_EPOCH-}"
		sed -e '/^# CONFIG_/!{/^#/d}' -e '/^$/d' "$fragment"
		declare -f options kbuild configure compile bundle
		gcc --version | head -n 1
		strip --version | head -n 1
	} | sha256sum | cut -c1-16
}

cached() {
	key=$(key_of)
	[ -e "$cache/$key/metadata.json" ]
}

# lock waits for its turn and removes what killed builds and forgotten results left.
lock() {
	exec 9>"$cache/lock"
	if ! flock -n 9; then
		say "waiting for another build in $cache"
		run flock 9
	fi
	rm -rf "$cache"/new.*
	find "$cache" -mindepth 1 -maxdepth 1 -name '.current.*' -mmin +5 -delete
	find "$cache" -mindepth 1 -maxdepth 1 -type d -name '[0-9a-f]*' -mtime +30 -exec rm -rf {} +
	work=$(mktemp -d "$cache/new.XXXXXX")
}

build() {
	local free need=$((3 << 20))
	[ ! -d "$source" ] || need=$((1 << 20))
	free=$(df -Pk "$work" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge "$need" ] || die "no space: a build needs $((need >> 20)) GB in $cache, which has $((free >> 10)) MB; choose another place with --cache"
	if ! get; then
		# The host's lists may be of yesterday, and name a version that is no longer there.
		[ -z "${APT_CONFIG-}" ] || unavailable
		fresh_lists
		locate || unavailable
		! cached || return 0
		get || unavailable
	fi
	epoch=$(epoch_of "$tree")
	version=$(awk '$1 == "VERSION" { v = $3 } $1 == "PATCHLEVEL" { print v "." $3; exit }' "$tree/Makefile")
	name=generic-$version
	configure
	compile
	bundle
	chmod 755 "$work/result"
	sync -f "$work/result"
	mv -T "$work/result" "$cache/$key"
}

unavailable() {
	[ ! -s "$work/log" ] || tail -n 5 "$work/log" >&2
	die "apt cannot give ${package:-linux-source}; see apt-cache policy ${package:-linux-source}, or use --source TARBALL"
}

# publish puts the result into place, each file whole.
publish() {
	local from=$cache/$key name
	touch "$from"
	name=$(sed -n 's/^  "name": "\(.*\)",$/\1/p' "$from/metadata.json")
	exec 8<"$out"
	flock 8
	rm -rf "$out"/.new.*
	staged=$(mktemp -d "$out/.new.XXXXXX")
	cp --reflink=auto "$from"/* "$staged/"
	{
		sed '/^  "description"/,$d' "$staged/metadata.json"
		printf '  "tarball_url": "%s",\n' "${base_url:+$base_url/}$name.tar.zst"
		printf '  "tarball_sha256": "%s",\n' "$(sha256sum <"$staged/$name.tar.zst" | cut -d' ' -f1)"
		printf '  "size_bytes": %s,\n' "$(stat -c %s "$staged/$name.tar.zst")"
		sed -n '/^  "description"/,$p' "$staged/metadata.json"
	} >"$staged/$name.json"
	mkdir -p "$out/$name"
	mv -f "$staged/vmlinux" "$staged/config" "$staged/metadata.json" "$out/$name/"
	mv -f "$staged/$name.tar.zst" "$staged/$name.json" "$out/"
	rmdir "$staged"
	staged=
	ln -sfT "$key" "$cache/.current.$$"
	mv -fT "$cache/.current.$$" "$cache/current"
	printf 'banger kernel import %s --from %q\n' "$name" "$out/$name"
}

main() {
	parse "$@"
	check_tools
	trap end EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	trap 'exit 129' HUP
	local located=
	if locate; then
		located=1
	fi
	if [ -z "$located" ] || ! cached; then
		lock
		if [ -z "$located" ]; then
			fresh_lists
			locate || unavailable
		fi
		cached || build
		rm -rf "$work"
		work=
		exec 9>&-
	fi
	publish
}

# In one piece: bash must not come back to this file, which may have been changed meanwhile.
{
	main "$@"
	exit
}
