package main

import (
	"fmt"
	"html"
	"strings"
)

// Sizes in the chart's own units.
const (
	chartWidth  = 760
	labelWidth  = 110
	barHeight   = 16
	barGap      = 4
	titleHeight = 26
	groupGap    = 14
	margin      = 14
)

// barColors has a color for each server. The test says which contrast they have to both backgrounds.
var barColors = map[string]string{
	"respond": "#8a8f98", "respond-logged": "#757b85", "wait": "#8a8f98", "relay": "#66707c", "bare": "#757b85", "bare-redis": "#757b85",
	"megaphone": "#2f7de1", "observed": "#2591a6", "logged": "#4c86a8", "disk": "#8468da", "disk-synced": "#a25fc0", "redis": "#cc5a4a",
	"mercure": "#c5751f", "nchan": "#3f9b5f",
}

// Pages show the chart as an image, which sees whether the system is light or dark, but not whether the page is. So the
// chart brings its background.
const chartStyle = `<style>
text { fill: #24292f } .background { fill: #ffffff }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .background { fill: #0d1117 } }
</style>`

// chart draws a group of bars for each measure that has results of several servers or is shown as a ratio.
func (r results) chart(ws []*work, ps []*peer) string {
	var b strings.Builder
	y := 0
	for _, w := range ws {
		for _, m := range w.measures {
			if len(r[m.name]) < 2 && m.ratio == "" {
				continue
			}
			y = r.group(&b, m, ps, y)
		}
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="%[1]d %[2]d %[3]d %[4]d" font-family="system-ui, sans-serif" font-size="12">
%[5]s
<rect class="background" x="%[1]d" y="%[2]d" width="%[3]d" height="%[4]d" rx="6"/>
%[6]s</svg>
`, -margin, -margin, chartWidth+2*margin, y+margin, chartStyle, b.String())
}

// group draws the bars of a measure, starting at y. It returns the y at which the next group begins.
func (r results) group(b *strings.Builder, m measure, ps []*peer, y int) int {
	hint := "more is better"
	if m.lessIsBest {
		hint = "less is better"
	}
	fmt.Fprintf(b, "<text x=\"0\" y=\"%d\" font-weight=\"bold\">%s, %s (%s)</text>\n",
		y+titleHeight-10, html.EscapeString(m.name), html.EscapeString(m.unit), hint)
	y += titleHeight
	longest := 0.0
	for _, p := range ps {
		v, _ := r.median(m, p.name)
		longest = max(longest, v)
	}
	if base, ok := r.floor(m); ok {
		longest = max(longest, base)
	}
	for _, p := range ps {
		v, ok := r.median(m, p.name)
		if !ok {
			continue
		}
		const longestBar = chartWidth - labelWidth - 130
		fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", labelWidth-8, y+barHeight-4, html.EscapeString(p.name))
		fmt.Fprintf(b, "<rect x=\"%d\" y=\"%d\" width=\"%.0f\" height=\"%d\" rx=\"2\" fill=\"%s\"/>",
			labelWidth, y, max(1, v/longest*longestBar), barHeight, barColors[p.name])
		fmt.Fprintf(b, "<text x=\"%.0f\" y=\"%d\">%s</text>\n",
			labelWidth+6+max(1, v/longest*longestBar), y+barHeight-4, html.EscapeString(r.cell(m, p.name)))
		y += barHeight + barGap
	}
	return y + groupGap
}
