package main

import (
	"fmt"
	"slices"
	"strings"
)

// results has the values of all rounds, by measure and by server.
type results map[string]map[string][]float64

func (r results) add(w *work, p *peer, values []float64) {
	for i, v := range values {
		name := w.measures[i].name
		if r[name] == nil {
			r[name] = map[string][]float64{}
		}
		r[name][p.name] = append(r[name][p.name], v)
	}
}

// median returns the median of a server's values for a measure. It reports whether there are any values.
func (r results) median(m measure, peer string) (float64, bool) {
	values := slices.Sorted(slices.Values(r[m.name][peer]))
	if len(values) == 0 {
		return 0, false
	}
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2, true
}

// ratio returns a server's median as a multiple of the floor's. It reports whether both exist.
func (r results) ratio(m measure, peer string) (float64, bool) {
	v, ok := r.median(m, peer)
	base, hasBase := r.floor(m)
	return v / base, ok && hasBase && base > 0
}

// floor returns the median that the ratios of a measure refer to. If the floor did not do the work of the measure, that
// is the floor's median for single POSTs. floor reports whether there is one.
func (r results) floor(m measure) (float64, bool) {
	if m.ratio == "" {
		return 0, false
	}
	if v, ok := r.median(m, m.ratio); ok {
		return v, true
	}
	return r.median(works()[0].measures[0], m.ratio)
}

// table returns the medians as a Markdown table.
func (r results) table(ws []*work, ps []*peer) string {
	var b strings.Builder
	b.WriteString("| work | unit |")
	for _, p := range ps {
		b.WriteString(" " + p.name + " |")
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---:|", len(ps)) + "\n")
	for _, w := range ws {
		for _, m := range w.measures {
			fmt.Fprintf(&b, "| %s | %s |", m.name, m.unit)
			for _, p := range ps {
				b.WriteString(" " + r.cell(m, p.name) + " |")
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func (r results) cell(m measure, peer string) string {
	v, ok := r.median(m, peer)
	if !ok {
		return ""
	}
	text := number(v)
	if ratio, ok := r.ratio(m, peer); ok {
		text += fmt.Sprintf(" (%s×)", number(ratio))
	}
	return text
}

// number formats a number with about three digits.
func number(v float64) string {
	switch {
	case v >= 100_000:
		return fmt.Sprintf("%.0f k", v/1000)
	case v >= 1000:
		return fmt.Sprintf("%.1f k", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
