package catalogs

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"banger"
)

// keyPair is a key that ssh-keygen made.
type keyPair struct {
	t    *testing.T
	path string
	pub  string // the line of the .pub file
}

func keygen(t *testing.T, args ...string) keyPair {
	t.Helper()
	k := keyPair{t: t, path: filepath.Join(t.TempDir(), "key")}
	if len(args) == 0 {
		args = []string{"-t", "ed25519"}
	}
	k.run(append(args, "-q", "-N", "", "-C", "somebody", "-f", k.path)...)
	b, err := os.ReadFile(k.path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	k.pub = string(b)
	return k
}

func (k keyPair) run(args ...string) {
	k.t.Helper()
	path, err := exec.LookPath("ssh-keygen")
	if err != nil {
		k.t.Fatalf("%v; run: apt-get install -y --no-install-recommends openssh-client", err)
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		k.t.Fatalf("ssh-keygen %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// sign makes a signature as docs/kernel-catalog.md has it.
func (k keyPair) sign(text string, options ...string) []byte {
	k.t.Helper()
	return k.signFor(Namespace, text, options...)
}

func (k keyPair) signFor(namespace, text string, options ...string) []byte {
	k.t.Helper()
	path := filepath.Join(k.t.TempDir(), "catalog.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.run(append([]string{"-Y", "sign", "-q", "-n", namespace, "-f", k.path}, append(options, path)...)...)
	b, err := os.ReadFile(path + sigSuffix)
	if err != nil {
		k.t.Fatal(err)
	}
	return b
}

func (k keyPair) public() ssh.PublicKey {
	k.t.Helper()
	key, err := parseKey(k.pub)
	if err != nil {
		k.t.Fatal(err)
	}
	return key
}

func TestVerify(t *testing.T) {
	const text = `{"version":1}`
	good, other := keygen(t), keygen(t)
	rsa := keygen(t, "-t", "rsa", "-b", "2048")
	sig := good.sign(text)
	// reformed changes what is inside the armor.
	reformed := func(change func(b []byte) []byte) []byte {
		block, _ := pem.Decode(sig)
		block.Bytes = change(block.Bytes)
		return pem.EncodeToMemory(block)
	}
	fields := func(change func(s *sshsig)) []byte {
		return reformed(func(b []byte) []byte {
			var s sshsig
			if err := ssh.Unmarshal(b[len(sigMagic):], &s); err != nil {
				t.Fatal(err)
			}
			change(&s)
			return append([]byte(sigMagic), ssh.Marshal(s)...)
		})
	}
	for name, tt := range map[string]struct {
		text string
		sig  []byte
		want string // in the error; empty: none
	}{
		"good":              {text, sig, ""},
		"sha256":            {text, good.sign(text, "-O", "hashalg=sha256"), ""},
		"empty text":        {"", good.sign(""), ""},
		"changed text":      {text + " ", sig, "one of the two was changed"},
		"of another text":   {text, good.sign(`{"version":2}`), "one of the two was changed"},
		"by another key":    {text, other.sign(text), "it is signed by SHA256:"},
		"by an RSA key":     {text, rsa.sign(text), "it is signed by SHA256:"},
		"another namespace": {text, good.signFor("file", text), `for "file", not for a catalog`},
		// All that names the key and the purpose is right, but not the signature.
		"key put in its place": {text, fields(func(s *sshsig) {
			block, _ := pem.Decode(other.sign(text))
			var o sshsig
			_ = ssh.Unmarshal(block.Bytes[len(sigMagic):], &o)
			s.Signature = o.Signature
		}), "one of the two was changed"},
		"namespace put in its place": {text, func() []byte {
			block, _ := pem.Decode(good.signFor("file", text))
			var s sshsig
			_ = ssh.Unmarshal(block.Bytes[len(sigMagic):], &s)
			s.Namespace = Namespace
			block.Bytes = append([]byte(sigMagic), ssh.Marshal(s)...)
			return pem.EncodeToMemory(block)
		}(), "one of the two was changed"},
		"reserved field":    {text, fields(func(s *sshsig) { s.Reserved = "x" }), "one of the two was changed"},
		"hash of less":      {text, fields(func(s *sshsig) { s.HashAlg = "sha1" }), `the hash "sha1"`},
		"hash not as asked": {text, fields(func(s *sshsig) { s.HashAlg = "sha256" }), "one of the two was changed"},
		"version 2":         {text, fields(func(s *sshsig) { s.Version = 2 }), "version 2"},
		"signature of RSA":  {text, fields(func(s *sshsig) { s.Signature = ssh.Marshal(ssh.Signature{Format: "rsa-sha2-512", Blob: []byte("x")}) }), "not one of ed25519"},
		"short signature":   {text, fields(func(s *sshsig) { s.Signature = ssh.Marshal(ssh.Signature{Format: "ssh-ed25519", Blob: []byte("x")}) }), "one of the two was changed"},
		"no signature":      {text, fields(func(s *sshsig) { s.Signature = nil }), "not one of ed25519"},
		"more after it":     {text, reformed(func(b []byte) []byte { return append(b, 0) }), "is none"},
		"cut off inside":    {text, reformed(func(b []byte) []byte { return b[:len(b)-1] }), "is none"},
		"only magic":        {text, reformed(func([]byte) []byte { return []byte(sigMagic) }), "is none"},
		"other magic":       {text, reformed(func(b []byte) []byte { return append([]byte("SSHSIX"), b[6:]...) }), "is none"},
		"a huge length":     {text, reformed(func([]byte) []byte { return []byte(sigMagic + "\x00\x00\x00\x01\xff\xff\xff\xff") }), "is none"},
		"nothing":           {text, nil, "is none"},
		"cut off":           {text, sig[:len(sig)/2], "is none"},
		"garbage":           {text, []byte("not found"), "is none"},
		"a page":            {text, []byte("<html>" + string(sig)), "is none"},
		"bad base64":        {text, bytes.Replace(sig, []byte("\n"), []byte("\n!"), 1), "is none"},
		"another armor":     {text, bytes.ReplaceAll(sig, []byte("SSH SIG"), []byte("PGP SIG")), "is none"},
		"headers":           {text, bytes.Replace(sig, []byte("\n"), []byte("\nA: b\n\n"), 1), "is none"},
		"two of them":       {text, append(sig[:len(sig):len(sig)], sig...), "is none"},
		"oversized":         {text, append(sig[:len(sig):len(sig)], bytes.Repeat([]byte("\n"), maxSig)...), "is none"},
		"without armor":     {text, []byte(base64.StdEncoding.EncodeToString([]byte(sigMagic))), "is none"},
	} {
		t.Run(name, func(t *testing.T) {
			err := verify([]byte(tt.text), tt.sig, good.public())
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			case err != nil && !banger.IsKind(err, banger.Invalid) && !banger.IsKind(err, banger.Unsupported):
				t.Errorf("%v has no kind", err)
			}
		})
	}
}

func TestParseKey(t *testing.T) {
	pub := strings.TrimSpace(keygen(t).pub)
	for name, tt := range map[string]struct{ line, want string }{
		"as in the file": {pub + "\n", ""},
		"no comment":     {strings.Join(strings.Fields(pub)[:2], " "), ""},
		"RSA":            {keygen(t, "-t", "rsa", "-b", "2048").pub, "of the type ssh-rsa"},
		"ECDSA":          {keygen(t, "-t", "ecdsa").pub, "of the type ecdsa-sha2-nistp256"},
		"options":        {`namespaces="file" ` + pub, "options"},
		"two keys":       {pub + "\n" + pub, "no public key"},
		"a file name":    {"/root/.ssh/id_ed25519.pub", "no public key"},
		"private":        {"-----BEGIN OPENSSH PRIVATE KEY-----", "no public key"},
		"cut off":        {pub[:40], "no public key"},
		"another type":   {strings.Replace(pub, "ssh-ed25519", "ssh-rsa", 1), "no public key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseKey(tt.line)
			if tt.want == "" && err != nil {
				t.Error(err)
			}
			if tt.want != "" && (!banger.IsKind(err, banger.Invalid) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzParseSig(f *testing.F) {
	f.Add([]byte("-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgA\n-----END SSH SIGNATURE-----\n"))
	f.Add([]byte("-----BEGIN SSH SIGNATURE-----\n\n-----END SSH SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, armored []byte) {
		if sig, err := parseSig(armored); err == nil && sig.Version != sigVersion {
			t.Errorf("%+v", sig)
		}
	})
}
