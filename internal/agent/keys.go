package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"banger"
)

// maxKey bounds a key file, in bytes.
const maxKey = 64 << 10

// NewHostKey makes an SSH host key: the private key as OpenSSH PEM, the public
// one as a line of authorized_keys without a newline.
func NewHostKey() (private, public string, err error) {
	private, pub, err := newKey("")
	if err != nil {
		return "", "", fmt.Errorf("make a host key: %w", err)
	}
	return private, strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(pub)), "\n"), nil
}

func newKey(comment string) (private string, public ssh.PublicKey, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return "", nil, err
	}
	public, err = ssh.NewPublicKey(pub)
	return string(pem.EncodeToMemory(block)), public, err
}

// LoadOrCreateUserKey reads the user's private key, and makes it if there is
// none; two who do so at once end with the same. The file must be the user's
// own, regular (no symbolic link), and readable by nobody else.
func LoadOrCreateUserKey(path string) (ssh.Signer, error) {
	signer, err := loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return signer, err
	}
	if err := createKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make user key: %w", err)
	}
	return loadKey(path)
}

func loadKey(path string) (ssh.Signer, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, banger.Errorf(banger.Invalid, "read user key %s: is a symbolic link", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read user key: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read user key: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !st.Mode().IsRegular():
		return nil, banger.Errorf(banger.Invalid, "read user key %s: no regular file", path)
	case !ok || int(sys.Uid) != os.Getuid():
		return nil, banger.Errorf(banger.Invalid, "read user key %s: belongs to somebody else", path)
	case st.Mode().Perm()&0o077 != 0:
		return nil, banger.Errorf(banger.Invalid, "read user key %s: others may read it", path).WithHint("chmod 600 %s", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return nil, fmt.Errorf("read user key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, banger.Errorf(banger.Invalid, "read user key %s: %w", path, err).WithHint("rm %s; the next start makes a new one", path)
	}
	return signer, nil
}

// createKey makes the file whole or not at all, and never replaces one.
func createKey(path string) error {
	private, _, err := newKey("banger")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(private)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // fails if somebody was faster
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
