package nodes

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// newBalancer starts a load balancer that passes each connection as a whole to one of the nodes that are healthy, and returns its
// URL.
func newBalancer(tb testing.TB, c *cluster) string {
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
			go balance(conn, c.nodes, next)
		}
	}()
	return "http://" + listener.Addr().String()
}

// balance passes a connection to a node, if there is one in time.
func balance(client net.Conn, nodes []*node, next int) {
	defer client.Close()
	for limit := time.Now().Add(patience); time.Now().Before(limit); next++ {
		n := nodes[next%len(nodes)]
		if !n.healthy() {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		server, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n.port))
		if err != nil {
			continue
		}
		defer server.Close()
		var both sync.WaitGroup
		both.Go(func() {
			_, _ = io.Copy(server, client)
			_ = server.(*net.TCPConn).CloseWrite()
		})
		both.Go(func() {
			_, _ = io.Copy(client, server)
			_ = client.(*net.TCPConn).CloseWrite()
		})
		both.Wait()
		return
	}
}

func (n *node) healthy() bool {
	response, err := http.Get(n.url() + "/health")
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}
