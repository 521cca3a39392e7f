package sshd

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/hello"
)

// maxKeyFile bounds what is read of files with keys, in bytes.
const maxKeyFile = 1 << 20

// ownSSHD lets a key in at the image's own SSH server, and tells its host keys.
func (s *session) ownSSHD() error {
	line, err := readLine(s.ch, hello.MaxOwnSSHD)
	var o hello.OwnSSHD
	if err != nil || json.Unmarshal([]byte(line), &o) != nil || strings.ContainsAny(o.Key, "\n\r") {
		return errors.New("let a key in: want one line of JSON with a user and a key")
	}
	keys := hostKeys(filepath.Join(cmp.Or(s.conn.srv.Etc, "/etc"), "ssh"))
	if len(keys) == 0 {
		return errors.New("this image has no SSH server of its own: there is no host key in /etc/ssh")
	}
	if o.Key != "" {
		u, err := s.conn.srv.lookupUser(o.User)
		if err == nil && !isDir(u.home) {
			err = fmt.Errorf("user %q has no home directory", u.name)
		}
		if err == nil {
			err = authorize(u, o.Key)
		}
		if err != nil {
			return fmt.Errorf("let a key in: %w", err)
		}
	}
	return json.NewEncoder(s.ch).Encode(hello.OwnSSHDKeys{HostKeys: keys})
}

// hostKeys reads the public host keys of OpenSSH.
func hostKeys(dir string) (keys []string) {
	files, _ := filepath.Glob(filepath.Join(dir, "ssh_host_*_key.pub"))
	for _, path := range files {
		if b, err := readSome(os.Open(path)); err == nil {
			keys = append(keys, strings.TrimSpace(string(b)))
		}
	}
	return keys
}

func readSome(f *os.File, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}

// authorize adds the key to those of the user, unless it is there. The home is
// the user's: no link of theirs leads out of it.
func authorize(u user, key string) error {
	home, err := os.OpenRoot(u.home)
	if err != nil {
		return err
	}
	defer home.Close()
	const dir, file = ".ssh", ".ssh/authorized_keys"
	// sshd wants both to be the user's, and nobody else's to write.
	if err := home.Mkdir(dir, 0o700); err == nil {
		err = home.Lchown(dir, int(u.uid), int(u.gid))
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	old, err := readSome(home.Open(file))
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return err
	}
	lines := strings.Split(string(old), "\n")
	if slices.Contains(lines, key) {
		return nil
	}
	f, err := home.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	text := key + "\n"
	if len(old) > 0 && !strings.HasSuffix(string(old), "\n") {
		text = "\n" + text
	}
	_, err = f.WriteString(text)
	if fresh {
		err = errors.Join(err, f.Chown(int(u.uid), int(u.gid)))
	}
	return errors.Join(err, f.Close())
}
