//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// internet gives the script's next daemon an internet of its own: a proxy that
// brings it to one HTTPS server for a folder, whichever of the hosts it asks for.
func internet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: internet FOLDER HOST...")
	}
	cert, err := certificate(args[1:])
	ts.Check(err)
	ca := ts.MkAbs("internet.pem")
	ts.Check(os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600))
	site := &http.Server{Handler: http.FileServer(http.Dir(ts.MkAbs(args[0]))), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}}
	siteAt, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	proxy := &http.Server{Handler: connectTo(siteAt.Addr().String())}
	proxyAt, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	done := make(chan error, 2)
	go func() { done <- site.ServeTLS(siteAt, "", "") }()
	go func() { done <- proxy.Serve(proxyAt) }()
	ts.Defer(func() {
		_, _ = site.Close(), proxy.Close()
		for range 2 {
			if err := <-done; !errors.Is(err, http.ErrServerClosed) {
				ts.Fatalf("internet: %v", err)
			}
		}
	})
	ts.Setenv("HTTPS_PROXY", "http://"+proxyAt.Addr().String())
	ts.Setenv("SSL_CERT_FILE", ca)
}

// certificate is one for the hosts, by a key that signs itself.
func certificate(hosts []string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// connectTo is a proxy that answers CONNECT with a way to addr.
func connectTo(addr string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
			return
		}
		to, err := net.Dial("tcp", addr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer to.Close()
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(to, from); _ = to.(*net.TCPConn).CloseWrite() })
		both.Go(func() { _, _ = io.Copy(from, to); _ = from.(*net.TCPConn).CloseWrite() })
		both.Wait()
	})
}
