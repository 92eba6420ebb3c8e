package testserver

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// NewBalancer starts a load balancer that passes each connection as a whole to a healthy one of the servers on these ports,
// in turn. While none is healthy, connections wait. It returns the balancer's URL.
func NewBalancer(tb testing.TB, ports ...int) string {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = listener.Close() })
	go func() {
		for next := 0; ; next++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go balance(conn, ports, next)
		}
	}()
	return "http://" + listener.Addr().String()
}

// balance passes a connection to a server, if one is healthy in time.
func balance(client net.Conn, ports []int, next int) {
	defer client.Close()
	for limit := time.Now().Add(patience); time.Now().Before(limit); next++ {
		address := fmt.Sprintf("127.0.0.1:%d", ports[next%len(ports)])
		if !healthy(address) {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		server, err := net.Dial("tcp", address)
		if err != nil {
			continue
		}
		defer server.Close()
		var both sync.WaitGroup
		both.Go(func() { pass(server, client) })
		both.Go(func() { pass(client, server) })
		both.Wait()
		return
	}
}

func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.(*net.TCPConn).CloseWrite()
}

func healthy(address string) bool {
	response, err := http.Get("http://" + address + "/health")
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}
