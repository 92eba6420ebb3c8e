package main

import (
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// contrast returns the contrast of two colors such as #8a8f98, from 1 to 21 (WCAG 2.2, 1.4.11).
func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	luminance := func(color string) float64 {
		sum := 0.0
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			v, err := strconv.ParseUint(color[1+2*i:3+2*i], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			channel := float64(v) / 255
			if channel <= 0.04045 {
				channel /= 12.92
			} else {
				channel = math.Pow((channel+0.055)/1.055, 2.4)
			}
			sum += weight * channel
		}
		return sum
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

var (
	barPattern        = regexp.MustCompile(`text-anchor="end">([^<]*)</text><rect [^>]*fill="([^"]*)"/>`)
	backgroundPattern = regexp.MustCompile(`\.background \{ fill: (#\w{6}) \}`)
	textPattern       = regexp.MustCompile(`text \{ fill: (#\w{6}) \}`)
)

// checkChart checks that a chart can be read on a light and on a dark background, whatever the page around it.
func checkChart(t *testing.T, svg string) {
	t.Helper()
	backgrounds, texts := backgroundPattern.FindAllStringSubmatch(svg, -1), textPattern.FindAllStringSubmatch(svg, -1)
	if len(backgrounds) != 2 || len(texts) != 2 || !strings.Contains(svg, `<rect class="background"`) {
		t.Fatalf("the chart has backgrounds %v and texts %v, want a light and a dark one", backgrounds, texts)
	}
	bars := barPattern.FindAllStringSubmatch(svg, -1)
	if len(bars) == 0 || len(bars) != strings.Count(svg, "<rect ")-1 {
		t.Fatalf("%d of %d bars have a label", len(bars), strings.Count(svg, "<rect ")-1)
	}
	for i := range backgrounds {
		background := backgrounds[i][1]
		if c := contrast(t, texts[i][1], background); c < 7 {
			t.Errorf("the contrast of the text to %s is %.1f", background, c)
		}
		for _, bar := range bars {
			if bar[2] == "" || bar[2] != barColors[bar[1]] {
				t.Errorf("the bar of %s has the color %q, want %q", bar[1], bar[2], barColors[bar[1]])
			} else if c := contrast(t, bar[2], background); c < 3 {
				t.Errorf("the contrast of the bar of %s to %s is %.1f", bar[1], background, c)
			}
		}
	}
}

func TestChartCanBeReadOnLightAndDark(t *testing.T) {
	r, ps := results{}, peers()
	w := works()[0]
	for i, p := range ps {
		r.add(w, p, []float64{float64(1000 * (i + 1))})
	}
	svg := r.chart([]*work{w}, ps)
	if n := len(barPattern.FindAllString(svg, -1)); n != len(ps) {
		t.Errorf("the chart has %d bars for %d servers", n, len(ps))
	}
	checkChart(t, svg)
}

func TestChartOfTheDocsCanBeReadOnLightAndDark(t *testing.T) {
	svg, err := os.ReadFile("../../docs/bench.svg")
	if err != nil {
		t.Fatal(err)
	}
	checkChart(t, string(svg))
}
