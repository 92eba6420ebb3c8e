package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
)

// shorten sets the options for the short run that CI does: only the works that have a guard, only for Megaphone and the
// floors.
func (o *options) shorten() {
	var keys []string
	for _, w := range works() {
		for _, m := range w.measures {
			if m.guard != 0 {
				keys = append(keys, w.key)
				break
			}
		}
	}
	o.works, o.peers = strings.Join(keys, ","), strings.Join([]string{floor, idleFloor, megaphone, "disk"}, ",")
	o.rounds, o.duration = 3, time.Second
}

// check returns an error that lists the guards that do not hold, or nil.
func (r results) check(ws []*work) error {
	var errs []error
	for _, w := range ws {
		for _, m := range w.measures {
			if m.guard == 0 {
				continue
			}
			guarded := cmp.Or(m.guarded, megaphone)
			v, ok := r.median(m, guarded)
			if m.ratio != "" {
				v, ok = r.ratio(m, guarded)
			}
			switch {
			case !ok:
				errs = append(errs, fmt.Errorf("%s was not measured", m.name))
			case m.lessIsBest && m.ratio != "" && v > m.guard:
				errs = append(errs, fmt.Errorf("%s: %s × %s, which is more than %s", m.name, number(v), m.ratio, number(m.guard)))
			case m.lessIsBest && v > m.guard:
				errs = append(errs, fmt.Errorf("%s: %s %s, which is more than %s", m.name, number(v), m.unit, number(m.guard)))
			case !m.lessIsBest && v < m.guard:
				errs = append(errs, fmt.Errorf("%s: %s × %s, which is less than %s", m.name, number(v), m.ratio, number(m.guard)))
			}
		}
	}
	return errors.Join(errs...)
}
