package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// A haltingBroker is a Broker whose store fails after some changes.
type haltingBroker struct {
	*memory.Broker

	changes int // that are left
}

var errStore = errors.New("secret details of the store")

func (b *haltingBroker) change() error {
	if b.changes--; b.changes < 0 {
		return errStore
	}
	return nil
}

func (b *haltingBroker) Delete(ctx context.Context, address string) error {
	return errors.Join(b.change(), b.Broker.Delete(ctx, address))
}

func (b *haltingBroker) Join(context.Context, string, broker.Join, broker.Limits) error {
	return b.change()
}
func (b *haltingBroker) Leave(context.Context, string, string) error { return b.change() }

// TestWhatFailsHalfwaySaysHowFarItCame: an operator who changes many channels learns how many were changed before a fault.
func TestWhatFailsHalfwaySaysHowFarItCame(t *testing.T) {
	for _, test := range []struct {
		name    string
		serve   endpoint
		changes int
		want    string
	}{
		{"delete", deleteMany, 2, "; channels deleted before that: 2"},
		{"delete nothing", deleteMany, 0, ""},
		{"join", ofTopic(joinTopic), 1, "; channels changed before that: 1"},
		{"leave", ofTopic(leaveTopic), 2, "; channels changed before that: 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &haltingBroker{Broker: memory.New(), changes: test.changes}
			defer b.Close()
			var names []string
			for range 3 {
				a, err := b.Create(t.Context(), "main", brokerfixture.Limits)
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, a.Consumer)
			}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/megaphone/x", strings.NewReader(`{"channels":["`+strings.Join(names, `","`)+`"]}`))
			r.SetPathValue("topic", "t")
			_, _, err := test.serve(View{Broker: b}, r)
			refusal, ok := errors.AsType[caddy.APIError](withStatus(err))
			if !ok || refusal.HTTPStatus != http.StatusInternalServerError || !errors.Is(refusal.Err, errStore) {
				t.Fatalf("the error is %#v", err)
			}
			if !strings.HasSuffix(refusal.Message, test.want) || strings.Contains(refusal.Message, "before that") != (test.want != "") ||
				strings.Contains(refusal.Message, "secret") {
				t.Errorf("the message is %q, want it to end with %q", refusal.Message, test.want)
			}
		})
	}
}

func TestStatsSayWhichVersionRunsSinceWhen(t *testing.T) {
	b := memory.New()
	defer b.Close()
	_, reply, err := stats(View{Broker: b}, nil)
	s := reply.(Stats)
	uptime, parseErr := time.ParseDuration(s.Uptime)
	if age := time.Since(s.Started); err != nil || parseErr != nil || age <= 0 || age > time.Hour || uptime > age+time.Second || uptime < age-time.Minute {
		t.Errorf("started %v, uptime %s, errors %v, %v", s.Started, s.Uptime, err, parseErr)
	}
	if s.Version == "" || s.CaddyVersion == "" {
		t.Errorf("the versions are %q and %q", s.Version, s.CaddyVersion)
	}
	self := debug.Module{Path: modulePath, Version: "v1.2.3"}
	for want, info := range map[string]*debug.BuildInfo{
		"v1.2.3":  {Main: self},
		"v1.2.4":  {Main: debug.Module{Path: "caddy"}, Deps: []*debug.Module{{Path: "x", Version: "v0.1.0"}, {Path: modulePath, Version: "v1.2.4"}}},
		"(devel)": {Main: debug.Module{Path: modulePath}},
		"unknown": {Main: debug.Module{Path: "caddy"}},

		"v1.2.5 => ../megaphone":     {Deps: []*debug.Module{{Path: modulePath, Version: "v1.2.5", Replace: &debug.Module{Path: "../megaphone"}}}},
		"v1.2.6 => host/fork@v1.0.0": {Deps: []*debug.Module{{Path: modulePath, Version: "v1.2.6", Replace: &debug.Module{Path: "host/fork", Version: "v1.0.0"}}}},
	} {
		if got := moduleVersion(info); got != want {
			t.Errorf("the version is %q, want %q", got, want)
		}
	}
}

// TestA404NamesAPageOnTheWeb, which a user without the sources has.
func TestA404NamesAPageOnTheWeb(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/megaphone/statistics", http.NoBody)
	err := api{}.route(nil)(httptest.NewRecorder(), r)
	if refusal, ok := errors.AsType[caddy.APIError](err); !ok || refusal.HTTPStatus != http.StatusNotFound || !strings.Contains(refusal.Message, "https://") {
		t.Errorf("the error is %v", err)
	}
}
