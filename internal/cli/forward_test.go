package cli

import "testing"

func TestParseForward(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]forward{
		"8080:80":                    {"tcp", "127.0.0.1:8080", "tcp", "127.0.0.1:80"},
		"0:80":                       {"tcp", "127.0.0.1:0", "tcp", "127.0.0.1:80"},
		"0.0.0.0:8080:80":            {"tcp", "0.0.0.0:8080", "tcp", "127.0.0.1:80"},
		"8080:db.lan:5432":           {"tcp", "127.0.0.1:8080", "tcp", "db.lan:5432"},
		"[::1]:8080:[fd00::2]:80":    {"tcp", "[::1]:8080", "tcp", "[fd00::2]:80"},
		"localhost:1:localhost:2":    {"tcp", "localhost:1", "tcp", "localhost:2"},
		"/tmp/a.sock:/run/b.sock":    {"unix", "/tmp/a.sock", "unix", "/run/b.sock"},
		"./a.sock:80":                {"unix", "./a.sock", "tcp", "127.0.0.1:80"},
		"2375:/run/docker.sock":      {"tcp", "127.0.0.1:2375", "unix", "/run/docker.sock"},
		"127.0.0.1:2375:/run/d.sock": {"tcp", "127.0.0.1:2375", "unix", "/run/d.sock"},
	} {
		if got, err := parseForward(word); err != nil || got != want {
			t.Errorf("%q: %+v, %v", word, got, err)
		}
	}
	for _, word := range []string{"", "80", ":", "80:", ":80", "80:0", "65536:80", "8080:80:90:1", "a:b", "/tmp/a.sock", "[::1:80", "80:/a:/b"} {
		if got, err := parseForward(word); err == nil {
			t.Errorf("%q: %+v", word, got)
		}
	}
}
