package sshd

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"banger/internal/hello"
	"banger/internal/parcel"
)

// dataWait bounds how long the stream of an order may take to come.
const dataWait = time.Minute

// ticket is an order that waits for its stream.
type ticket struct {
	data chan net.Conn // gets one
	over chan struct{} // closed when the data are done with
}

// issue makes a ticket that one stream to the data port can take.
func (s *Server) issue() (token string, t *ticket) {
	var b [hello.TokenSize / 2]byte
	_, _ = rand.Read(b[:]) // never fails
	token, t = hex.EncodeToString(b[:]), &ticket{make(chan net.Conn, 1), make(chan struct{})}
	s.ticketLock.Lock()
	defer s.ticketLock.Unlock()
	if s.tickets == nil {
		s.tickets = map[string]*ticket{}
	}
	s.tickets[token] = t
	return token, t
}

// take gives the ticket for a token, once.
func (s *Server) take(token string) *ticket {
	s.ticketLock.Lock()
	defer s.ticketLock.Unlock()
	t := s.tickets[token]
	delete(s.tickets, token)
	return t
}

// data hands a stream to the order that it names, and waits until that is done with it.
func (s *Server) data(c net.Conn) error {
	var word [hello.TokenSize + 1]byte
	if _, err := io.ReadFull(c, word[:]); err != nil {
		return fmt.Errorf("read a token: %w", err)
	}
	t := s.take(string(word[:hello.TokenSize]))
	if t == nil || word[hello.TokenSize] != '\n' {
		return errors.New("take data: no such token")
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	t.data <- c
	<-t.over
	return nil
}

// copyFiles is hello.CopySubsystem.
func (s *session) copyFiles() error {
	order, err := readCopyOrder(s.ch)
	if err != nil {
		return err
	}
	u, err := s.conn.srv.lookupUser(order.User)
	if err != nil {
		return err
	}
	token, t := s.conn.srv.issue()
	defer s.conn.srv.take(token)
	defer close(t.over)
	if err := json.NewEncoder(s.ch).Encode(parcel.Ticket{Token: token}); err != nil {
		return err
	}
	data, err := s.awaitData(t)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer data.Close()
	over := make(chan struct{})
	defer close(over)
	go func() { // a client that goes away ends its copy
		select {
		case <-s.gone:
			_ = data.SetDeadline(time.Unix(1, 0))
		case <-over:
		}
	}()
	out := writeBehind(data, hello.FullFrame)
	res := s.conn.srv.copyAs(order, u, data, out)
	if err := out.Close(); err != nil && res.Error == "" {
		res.Error = err.Error()
	}
	data.Close() // before the result: whoever has that has all data
	return json.NewEncoder(s.ch).Encode(res)
}

// awaitData waits for the stream that a ticket was made for.
func (s *session) awaitData(t *ticket) (net.Conn, error) {
	limit := time.NewTimer(dataWait)
	defer limit.Stop()
	select {
	case data := <-t.data:
		return data, nil
	case <-s.gone:
		return nil, errors.New("the client is gone")
	case <-limit.C:
		return nil, errors.New("no data came")
	}
}

func readCopyOrder(r io.Reader) (o parcel.Order, err error) {
	line, err := bufio.NewReader(io.LimitReader(r, parcel.MaxOrder)).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &o)
	}
	if err != nil {
		return o, fmt.Errorf("read the order: %w", err)
	}
	return o, nil
}

// copyAs carries the order out here, or for another user in a process that runs
// as that user.
func (s *Server) copyAs(o parcel.Order, u user, data net.Conn, out io.Writer) parcel.Result {
	if int(u.uid) == os.Getuid() && int(u.gid) == os.Getgid() {
		return o.Do(data, out)
	}
	res, err := s.copyProcess(o, u, data, out)
	if err != nil {
		res.Error = fmt.Sprintf("copy as user %d: %v", u.uid, err)
	}
	return res
}

func (s *Server) copyProcess(o parcel.Order, u user, data net.Conn, out io.Writer) (res parcel.Result, err error) {
	if len(s.Copy) == 0 || os.Getuid() != 0 {
		return res, errors.New("the agent has no way to")
	}
	p := &process{}
	theirs, err := p.pipes()
	if err != nil {
		return res, err
	}
	defer closeAll(p.outs)
	defer p.in.Close()
	attr := &os.ProcAttr{Dir: "/", Files: theirs, Env: []string{"PATH=" + defaultPath, "HOME=" + u.home}, Sys: &syscall.SysProcAttr{
		Setsid: true, Credential: &syscall.Credential{Uid: u.uid, Gid: u.gid, Groups: u.groups}}}
	child, err := s.startCalm(program{path: s.Copy[0], argv: s.Copy}, attr)
	closeAll(theirs)
	if err != nil {
		return res, err
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		defer p.in.Close()
		if json.NewEncoder(p.in).Encode(o) == nil && o.Unpack != nil {
			_, _ = io.Copy(p.in, data)
		}
	}()
	if _, err := io.Copy(out, p.outs[0]); err != nil {
		p.outs[0].Close() // its next write fails
	}
	err = json.NewDecoder(io.LimitReader(p.outs[1], parcel.MaxOrder)).Decode(&res)
	_, werr := child.Wait()
	// It has ended, and with it its interest in more.
	_ = data.SetReadDeadline(time.Unix(1, 0))
	<-fed
	return res, errors.Join(err, werr)
}

// ServeCopy carries out the order that comes on r before the data. It is what
// the Copy command line of Server has to run, with its stdin, stdout and stderr.
func ServeCopy(r io.Reader, w, result io.Writer) error {
	in := bufio.NewReaderSize(r, parcel.MaxOrder)
	line, err := in.ReadBytes('\n')
	var o parcel.Order
	if err == nil {
		err = json.Unmarshal(line, &o)
	}
	if err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	return json.NewEncoder(result).Encode(o.Do(in, w))
}
