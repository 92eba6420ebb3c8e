// Package control lets the demo's page act on the server that it talks to: reload it, or stop it for a while. It shows what
// happens to messages then. A real site has nothing like it.
package control

import (
	"encoding/json"
	"log"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// replyTime is how long the reply to a stop has before the server stops.
	replyTime = 200 * time.Millisecond
	// again is how long to wait before another try, if the server does not start.
	again = time.Second
)

// A Server is what the page acts on.
type Server interface {
	// Reload replaces the configuration with the same one, and returns when the new one runs.
	Reload() error
	// Stop stops the server, and Start starts it again.
	Stop() error
	Start() error
}

// A Control serves the page below /demo/.
type Control struct {
	http.Handler

	// Pause is how long a stopped server is away. Default: 5 s.
	Pause time.Duration

	server  Server
	state   state
	stopped atomic.Bool // from a stop until the server runs again
}

// A state tells the page what it can offer.
type state struct {
	Inspector string `json:"inspector"` // its address
	Journal   bool   `json:"journal"`   // whether rooms survive a stop
	Seconds   int    `json:"seconds"`   // of a stop
}

// New returns a control of a server. Inspector is the Inspector's address, and journal says whether rooms survive a stop.
// Other sites' pages cannot use it.
func New(server Server, inspector string, journal bool) *Control {
	c := &Control{Pause: 5 * time.Second, server: server, state: state{Inspector: inspector, Journal: journal}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /demo/state", c.serveState)
	mux.HandleFunc("POST /demo/reload", c.reload)
	mux.HandleFunc("POST /demo/stop", c.stop)
	c.Handler = http.NewCrossOriginProtection().Handler(mux)
	return c
}

func (c *Control) serveState(w http.ResponseWriter, _ *http.Request) {
	state := c.state
	state.Seconds = int(c.Pause.Seconds())
	_ = json.NewEncoder(w).Encode(state)
}

// reload replies when the new configuration runs, with the milliseconds that this took.
func (c *Control) reload(w http.ResponseWriter, _ *http.Request) {
	if c.stopped.Load() {
		w.WriteHeader(http.StatusConflict)
		return
	}
	begun := time.Now()
	if err := c.server.Reload(); err != nil {
		log.Printf("reload: %v", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]int64{"milliseconds": time.Since(begun).Milliseconds()})
}

// stop replies, and then stops the server.
func (c *Control) stop(w http.ResponseWriter, _ *http.Request) {
	if !c.stopped.CompareAndSwap(false, true) {
		w.WriteHeader(http.StatusConflict)
		return
	}
	go c.away()
	_ = json.NewEncoder(w).Encode(struct{}{})
}

// away stops the server, and starts it again after the pause.
func (c *Control) away() {
	defer c.stopped.Store(false)
	time.Sleep(replyTime)
	if err := c.server.Stop(); err != nil {
		log.Printf("stop: %v", err)
	}
	time.Sleep(c.Pause)
	for {
		err := c.server.Start()
		if err == nil {
			return
		}
		log.Printf("start: %v", err)
		time.Sleep(again)
	}
}
