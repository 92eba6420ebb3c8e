// Command compare measures Megaphone beside its peers and beside Caddy's own floor, and prints one table. Run it in
// the folder bench:
//
//	go run ./compare                  # everything, with a chart for the README
//	go run ./compare -short           # a minute: fails when Megaphone has become slow or large
//	go run ./compare -work write,batch -peers respond,megaphone -rounds 3
//
// Each server runs on one core and the load on another. What counts is done for each second of the server's CPU time,
// so that the load's speed does not matter. Needs Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

// options are what the command line says.
type options struct {
	rounds   int
	duration time.Duration
	works    string
	peers    string
	chart    string
	profiles string
	short    bool
	dir      string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run() error {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how often each work is done; the table shows the median")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "how long each work is measured")
	flag.StringVar(&o.works, "work", "", "which works, with commas; all if empty")
	flag.StringVar(&o.peers, "peers", "", "which servers, with commas; all if empty")
	flag.StringVar(&o.chart, "chart", "", "the SVG file to write, such as ../docs/bench.svg")
	flag.StringVar(&o.profiles, "profiles", "", "a folder for CPU and allocation profiles of Megaphone, for go tool pprof")
	flag.BoolVar(&o.short, "short", false, "check that Megaphone keeps within its bounds, in a minute")
	flag.Parse()
	if err := pinSelf(loadCore); err != nil {
		return err
	}
	var err error
	if o.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(o.dir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	if o.short {
		o.shorten()
	}
	ps, err := choose(peers(), o.peers, func(p *peer) string { return p.name })
	if err != nil {
		return err
	}
	if ps, err = build(ps, o.dir); err != nil {
		return err
	}
	ws, err := choose(works(), o.works, func(w *work) string { return w.key })
	if err != nil {
		return err
	}
	r, err := measureAll(ctx, ws, ps, o)
	if err != nil {
		return err
	}
	fmt.Println()
	fmt.Print(r.table(ws, ps))
	if o.short {
		return r.check(ws)
	}
	if o.chart != "" {
		return os.WriteFile(o.chart, []byte(r.chart(ws, ps)), 0o644) //nolint:gosec // a picture for all
	}
	return nil
}

// choose returns the items whose names are listed, in their own order.
func choose[T any](all []T, names string, name func(T) string) ([]T, error) {
	if names == "" {
		return all, nil
	}
	list := strings.Split(names, ",")
	var known []string
	chosen := slices.DeleteFunc(slices.Clone(all), func(item T) bool {
		known = append(known, name(item))
		return !slices.Contains(list, name(item))
	})
	for _, n := range list {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("there is no %q; there is %s", n, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// build gets the servers ready. Those that are not installed are left out.
func build(ps []*peer, dir string) ([]*peer, error) {
	var ready []*peer
	for _, p := range ps {
		var err error
		if p.binary, err = p.build(dir); errors.Is(err, errMissing) {
			fmt.Printf("%s is left out: %v\n", p.name, err)
			continue
		} else if err != nil {
			return nil, fmt.Errorf("building %s: %w", p.name, err)
		}
		ready = append(ready, p)
	}
	return ready, nil
}

// measureAll does all works with all servers, in rounds, so that what disturbs the machine for a while disturbs all
// of them.
func measureAll(ctx context.Context, ws []*work, ps []*peer, o options) (results, error) {
	r := results{}
	for _, w := range ws {
		rounds := o.rounds
		if o.short && w.steady {
			rounds = 1
		}
		for round := range rounds {
			for _, p := range ps {
				if !w.applies(p) {
					continue
				}
				values, err := measureOne(ctx, p, w, o)
				if err != nil {
					return nil, fmt.Errorf("%s with %s: %w", w.key, p.name, err)
				}
				r.add(w, p, values)
				fmt.Printf("%-14s %d/%d  %-10s", w.key, round+1, rounds, p.name)
				for i, v := range values {
					fmt.Printf(" %s %s", number(v), w.measures[i].unit)
				}
				fmt.Println()
			}
		}
	}
	return r, nil
}

func measureOne(ctx context.Context, p *peer, w *work, o options) ([]float64, error) {
	s, err := newSession(ctx, p, w, o)
	if err != nil {
		return nil, err
	}
	defer s.server.stop()
	defer s.close()
	return w.run(ctx, s)
}
