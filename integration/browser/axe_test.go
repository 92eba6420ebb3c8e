//go:build browser

package browser

import (
	"os"
	"testing"
)

// axeViews are the views in which a page must have no barriers, from phones to large screens.
var axeViews = []view{
	{"phone", 390, 844, false},
	{"dark phone", 390, 844, true},
	{"tablet", 768, 1024, false},
	{"light", 1280, 800, false},
	{"large and dark", 1920, 1080, true},
}

// wantNoBarriers checks a page with axe, which finds what keeps people from using it, in each view.
func (p *page) wantNoBarriers(t *testing.T, what string, views []view) {
	t.Helper()
	source, err := os.ReadFile("../../client/js/node_modules/axe-core/axe.min.js")
	if err != nil {
		t.Logf("SKIPPED: axe is missing: run npm ci in client/js: %v", err)
		return
	}
	for _, v := range views {
		p.look(v)
		p.run(string(source))
		p.run(`window.axed = undefined; axe.run().then(
			({ violations }) => window.axed = violations.map(({ id, help, nodes }) => id + ": " + help + ": " + nodes.map(({ html }) => html).join(" ").slice(0, 300)),
			(error) => window.axed = [String(error)])`)
		p.await("axe is done", "window.axed")
		for _, violation := range p.list("axed") {
			t.Errorf("%s, %s: %s", what, v.name, violation)
		}
		for _, barrier := range p.list(barriers) {
			t.Errorf("%s, %s: %s", what, v.name, barrier)
		}
	}
}
