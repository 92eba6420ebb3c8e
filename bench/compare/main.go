// Command compare measures Megaphone, its peers, and the least that Caddy itself costs (the floor). It prints one
// table. Run it in the folder bench:
//
//	go run ./compare                  # everything, with a chart for the README
//	go run ./compare -short           # takes a minute; fails if Megaphone has become slow or large
//	go run ./compare -work write,batch -peers respond,megaphone -rounds 3
//
// Each server runs on one core, and the load on another. Rates count the work per second of the server's CPU time, so
// the speed of the load does not matter. It needs Linux.
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

// options holds the command line's flags.
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
	begin := run
	if task := os.Getenv(probing); task != "" {
		begin = func() error { return runProbe(task) }
	}
	if err := begin(); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run() error {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how often to do each work; the table shows the median")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "how long to measure each work")
	flag.StringVar(&o.works, "work", "", "the works to do, separated by commas; empty for all")
	flag.StringVar(&o.peers, "peers", "", "the servers to measure, separated by commas; empty for all")
	flag.StringVar(&o.chart, "chart", "", "the SVG file to write, such as ../docs/bench.svg")
	flag.StringVar(&o.profiles, "profiles", "", "a folder for CPU and allocation profiles of the Caddy servers, for go tool pprof")
	flag.BoolVar(&o.short, "short", false, "only check that Megaphone stays within its bounds; takes a minute")
	flag.Parse()
	if err := pinSelf(loadCore); err != nil {
		return err
	}
	var err error
	if o.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(o.dir) }()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	if o.short {
		o.shorten()
	}
	ps, err := choose(peers(), o.peers, func(p *peer) string { return p.name })
	if err != nil {
		return err
	}
	if ps, err = build(ctx, ps, o.dir); err != nil {
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
		return os.WriteFile(o.chart, []byte(r.chart(ws, ps)), 0o644) //nolint:gosec // everyone may read the picture
	}
	return nil
}

// choose returns the items that names lists, in the order of all. If names is empty, it returns all of them.
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
			return nil, fmt.Errorf("there is no %q; choose from %s", n, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// build builds the servers. It leaves out those that are not installed.
func build(ctx context.Context, ps []*peer, dir string) ([]*peer, error) {
	var ready []*peer
	for _, p := range ps {
		var err error
		if p.binary, err = p.build(ctx, dir); errors.Is(err, errMissing) {
			fmt.Printf("leaving out %s: %v\n", p.name, err)
			continue
		} else if err != nil {
			return nil, fmt.Errorf("building %s: %w", p.name, err)
		}
		ready = append(ready, p)
	}
	return ready, nil
}

// measureAll does all works with all servers. The servers take turns, so that a disturbance of the machine affects all
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
	defer s.close()
	values, err := w.run(ctx, s)
	if err != nil {
		for _, node := range s.nodes {
			node.stop()
			err = fmt.Errorf("%w\n%s", err, node.output)
		}
	}
	return values, err
}
