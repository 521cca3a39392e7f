package catalogs

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"

	"golang.org/x/crypto/ssh"

	"banger"
)

// Namespace is what a signature has to be made for: ssh-keygen -Y sign -n
// banger-catalog. It keeps a signature that the same key made for something
// else, of mail or a commit, from being one of a catalog.
const Namespace = "banger-catalog"

// The form of a signature, SSHSIG: a magic word, then these fields as SSH
// writes them, and all of it as base64 between the two lines of PEM.
// Source: PROTOCOL.sshsig of OpenSSH.
const (
	sigMagic   = "SSHSIG"
	sigVersion = 1
	sigArmor   = "SSH SIGNATURE"
	maxSig     = 8 << 10 // bytes; one by an ed25519 key has 300
)

// howToSign is for who publishes the catalog. Without the redirections ssh-keygen
// asks before it replaces a signature, and leaves the old one if nobody answers.
const howToSign = "it has to be signed with: ssh-keygen -Y sign -n " + Namespace + " -f KEY <catalog.json >catalog.json.sig"

type sshsig struct {
	Version   uint32
	PublicKey []byte
	Namespace string
	Reserved  string
	HashAlg   string
	Signature []byte
}

// signed is what the key has signed, after the magic word.
type signed struct {
	Namespace string
	Reserved  string
	HashAlg   string
	Sum       []byte
}

// parseKey reads a public key as it stands in authorized_keys or a .pub file.
// Only ed25519 is taken: it has no parameters that somebody could get wrong.
func parseKey(line string) (ssh.PublicKey, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil || len(bytes.TrimSpace(rest)) > 0:
		return nil, banger.Errorf(banger.Invalid, "%.60q is no public key", line).WithHint("write the line of the .pub file: ssh-ed25519 AAAA...")
	case key.Type() != ssh.KeyAlgoED25519:
		return nil, banger.Errorf(banger.Invalid, "a key of the type %.40s, only ssh-ed25519 is taken", key.Type()).WithHint("make one: ssh-keygen -t ed25519")
	case len(options) > 0:
		return nil, banger.Errorf(banger.Invalid, "the key has options, which mean nothing here").WithHint("write it as ssh-ed25519 AAAA...")
	}
	return key, nil
}

// verify checks that armored is a signature of text by key for the namespace
// of catalogs. Its errors are Invalid.
func verify(text, armored []byte, key ssh.PublicKey) error {
	sig, err := parseSig(armored)
	if err != nil {
		return err
	}
	var sum []byte
	switch sig.HashAlg {
	case "sha512":
		s := sha512.Sum512(text)
		sum = s[:]
	case "sha256":
		s := sha256.Sum256(text)
		sum = s[:]
	default:
		return banger.Errorf(banger.Invalid, "its signature has the hash %.20q, want sha512 or sha256", sig.HashAlg)
	}
	if sig.Namespace != Namespace {
		return banger.Errorf(banger.Invalid, "its signature is for %.40q, not for a catalog", sig.Namespace).
			WithHint("%s", howToSign)
	}
	if !bytes.Equal(sig.PublicKey, key.Marshal()) {
		by := "another key"
		if k, err := ssh.ParsePublicKey(sig.PublicKey); err == nil {
			by = ssh.FingerprintSHA256(k)
		}
		return banger.Errorf(banger.Invalid, "it is signed by %s, the key of the configuration is %s", by, ssh.FingerprintSHA256(key))
	}
	var s ssh.Signature
	if err := ssh.Unmarshal(sig.Signature, &s); err != nil || s.Format != ssh.KeyAlgoED25519 {
		return banger.Errorf(banger.Invalid, "its signature is not one of ed25519")
	}
	// The reserved field means nothing yet, and is signed like the others.
	data := append([]byte(sigMagic), ssh.Marshal(signed{sig.Namespace, sig.Reserved, sig.HashAlg, sum})...)
	if err := key.Verify(data, &s); err != nil {
		return banger.Errorf(banger.Invalid, "its signature is not that of this text: one of the two was changed")
	}
	return nil
}

// parseSig reads the armor and what is in it, and nothing besides.
func parseSig(armored []byte) (sig sshsig, err error) {
	bad := banger.Errorf(banger.Invalid, "what stands where its signature should be is none").
		WithHint("%s", howToSign)
	if len(armored) > maxSig || !bytes.HasPrefix(armored, []byte("-----BEGIN "+sigArmor+"-----")) {
		return sig, bad
	}
	block, rest := pem.Decode(armored)
	if block == nil || block.Type != sigArmor || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return sig, bad
	}
	fields, ok := bytes.CutPrefix(block.Bytes, []byte(sigMagic))
	if !ok || ssh.Unmarshal(fields, &sig) != nil {
		return sig, bad
	}
	if sig.Version != sigVersion {
		return sig, banger.Errorf(banger.Unsupported, "its signature has version %d, this build reads version %d", sig.Version, sigVersion)
	}
	return sig, nil
}
