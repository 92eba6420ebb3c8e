package testserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// FreePort returns a port of the loopback address that is free for TCP and UDP. It stays free until the test uses it, as far as
// tests go: each call returns another port, processes that run at the same time get different ports, and programs that ask the
// system for any port get a higher one.
func FreePort(tb testing.TB) int {
	tb.Helper()
	port, err := Port()
	if err != nil {
		tb.Fatal(err)
	}
	return port
}

// Port is FreePort for what several tests share.
func Port() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	for range blockCount * blockSize {
		port, err := ports.next()
		if err != nil {
			return 0, err
		}
		if isFree(port) {
			return port, nil
		}
	}
	return 0, errors.New("there is no free port")
}

// The range of ports. Programs that ask for any port get 32768 or higher on Linux, and 49152 or higher on other systems. A process
// owns whole blocks of it.
const firstPort, blockCount, blockSize = 20_000, 240, 50

// ports are those that this process has not returned yet.
var ports portBlocks

type portBlocks struct {
	sync.Mutex

	port, end int
	blocks    []block // that this process owns
	tried     int     // blocks
}

// A block is some of the ports. While its lock is held, which is until the process ends, no other process has it.
type block struct {
	first  int
	unlock func()
}

// next returns the next port, of another block if the last one is used up.
func (p *portBlocks) next() (int, error) {
	if p.port == p.end {
		if err := p.take(); err != nil {
			return 0, err
		}
	}
	p.port++
	return p.port - 1, nil
}

// take takes a block that no process owns. If there is none, it begins again with the oldest one of this process.
func (p *portBlocks) take() error {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("megaphone-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for ; p.tried < blockCount; p.tried++ {
		n := (os.Getpid()*7 + p.tried) % blockCount // where the system has no locks, processes are likely to begin far apart
		unlock, err := tryLock(filepath.Join(dir, fmt.Sprint(n)))
		if err != nil {
			return err
		}
		if unlock != nil {
			p.tried++
			p.use(block{firstPort + n*blockSize, unlock})
			return nil
		}
	}
	if len(p.blocks) == 0 {
		return errors.New("other processes own all ports for tests")
	}
	oldest := p.blocks[0]
	p.blocks = p.blocks[1:]
	p.use(oldest)
	return nil
}

func (p *portBlocks) use(b block) {
	p.port, p.end = b.first, b.first+blockSize
	p.blocks = append(p.blocks, b)
}

func isFree(port int) bool {
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return false
	}
	_ = udp.Close()
	return true
}
