//go:build browser

package browser

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// faults is a script that collects a page's faults in window.faults.
const faults = `
window.faults = [];
addEventListener("error", (e) => faults.push(String(e.message ?? e.target.src ?? e.target.href)), true);
addEventListener("unhandledrejection", (e) => faults.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => faults.push(e.violatedDirective + " " + e.blockedURI));`

// A view says how large a page is, and whether its colors are light or dark.
type view struct {
	name          string
	width, height int
	dark          bool
}

// views has the views that the pictures show.
var views = []view{
	{"light", 1280, 800, false},
	{"dark", 1280, 800, true},
	{"phone", 390, 844, false},
}

// show opens a page that collects its faults.
func (b *browser) show(url string, v view) *page {
	b.tb.Helper()
	p := b.open("about:blank")
	p.look(v)
	p.do("Page.enable", nil)
	p.do("Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": faults})
	p.do("Page.navigate", map[string]any{"url": url})
	return p
}

// do sends a command that must succeed.
func (p *page) do(method string, params any) {
	p.browser.tb.Helper()
	if err := p.browser.call(p.session, method, params, nil); err != nil {
		p.browser.tb.Fatal(err)
	}
}

// look changes the page's view.
func (p *page) look(v view) {
	p.browser.tb.Helper()
	scheme := "light"
	if v.dark {
		scheme = "dark"
	}
	p.do("Emulation.setDeviceMetricsOverride", map[string]any{
		"width": v.width, "height": v.height, "deviceScaleFactor": 1, "mobile": v.width < 500,
	})
	p.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{
		{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"},
	}})
}

// await waits until a JavaScript expression is true in the page.
func (p *page) await(what, expression string) {
	p.browser.tb.Helper()
	var ok bool
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = p.evaluate("Boolean("+expression+")", &ok); ok {
			return
		}
	}
	var text string
	_ = p.evaluate("document.body.innerText + '\\nfaults: ' + faults", &text)
	p.browser.tb.Fatalf("waited in vain until %s: %v; the page has\n%s", what, err, text)
}

// click clicks the element of a selector.
func (p *page) click(selector string) {
	p.browser.tb.Helper()
	p.run(fmt.Sprintf("document.querySelector(%q).click()", selector))
}

// run runs JavaScript and ignores its value.
func (p *page) run(script string) {
	p.browser.tb.Helper()
	var done bool
	if err := p.evaluate("{"+script+"; true}", &done); err != nil {
		p.browser.tb.Fatal(err)
	}
}

// enter types a text into the element of a selector, and presses Enter.
func (p *page) enter(selector, text string) {
	p.browser.tb.Helper()
	p.run(fmt.Sprintf("document.querySelector(%q).focus()", selector))
	p.do("Input.insertText", map[string]any{"text": text})
	p.press("Enter", "Enter", 13)
}

// press presses a key, of this name and on this place of the keyboard.
func (p *page) press(key, code string, number int) {
	p.browser.tb.Helper()
	text := map[string]string{"Enter": "\r", " ": " "}[key]
	for _, kind := range []string{"keyDown", "keyUp"} {
		p.do("Input.dispatchKeyEvent", map[string]any{
			"type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number, "text": text,
		})
	}
}

// list evaluates a JavaScript expression, which must be an array of strings.
func (p *page) list(expression string) []string {
	p.browser.tb.Helper()
	var list []string
	if err := p.evaluate(expression, &list); err != nil {
		p.browser.tb.Fatal(err)
	}
	return list
}

// wantNoFaults checks that the page has no faults and no barriers.
func (p *page) wantNoFaults() {
	p.browser.tb.Helper()
	for _, fault := range append(p.list("faults"), p.list(barriers)...) {
		p.browser.tb.Error(fault)
	}
}

// barriers is a script that finds what keeps people from using a page: controls without a name, text with too little
// contrast (WCAG 2.2, 1.4.3), duplicate ids, a missing language or title, and a page that is wider than the screen.
const barriers = `(() => {
	const found = [];
	const visible = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true });
	for (const e of document.querySelectorAll("button, input, textarea, select, a, summary")) {
		const name = e.getAttribute("aria-label") || e.labels?.[0]?.innerText || e.innerText || e.title;
		if (visible(e) && !name?.trim()) found.push("no name: " + e.outerHTML.slice(0, 80));
	}
	const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
	ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => found.push("twice: #" + id));
	if (!document.documentElement.lang || !document.title) found.push("no language, or no title");
	// Not innerWidth, which on phones grows with content that is too wide.
	if (document.documentElement.scrollWidth > document.documentElement.clientWidth) found.push("wider than the screen: " + document.documentElement.scrollWidth);

	const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
	const colour = (css, below = [255, 255, 255]) => {
		canvas.clearRect(0, 0, 1, 1);
		canvas.fillStyle = css;
		canvas.fillRect(0, 0, 1, 1);
		const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
		return [r, g, b].map((c, i) => a === 255 ? c : below[i] + (c - below[i]) * a / 255);
	};
	const ground = (e) => e ? colour(getComputedStyle(e).backgroundColor, ground(e.parentElement)) : [255, 255, 255];
	const luminance = (rgb) => rgb.map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
		.reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	const seen = new Set();
	while (texts.nextNode()) {
		const e = texts.currentNode.parentElement;
		if (!texts.currentNode.data.trim() || !visible(e) || e.closest(":disabled")) continue;
		const below = ground(e);
		const [a, b] = [luminance(below), luminance(colour(getComputedStyle(e).color, below))].sort((x, y) => y - x);
		const ratio = (a + 0.05) / (b + 0.05);
		const what = "contrast " + ratio.toFixed(2) + ": " + e.tagName + "." + e.className + " " + texts.currentNode.data.trim().slice(0, 30);
		if (ratio < 4.5 && !seen.has(what)) {
			seen.add(what);
			found.push(what);
		}
	}
	return found;
})()`

// pictures makes pictures of the page in all views. In each view, it checks that the page has no faults. It keeps the
// pictures only if the environment variable MEGAPHONE_PICTURES names a folder for them.
func (p *page) pictures(t *testing.T, name string) {
	t.Helper()
	for _, v := range views {
		p.look(v)
		time.Sleep(200 * time.Millisecond) // waits for the layout
		p.wantNoFaults()
		p.picture(t, fmt.Sprintf("%s-%s", name, v.name))
	}
}

// picture makes a picture of the page. Except for phones, it shows the whole page and not just the screen.
func (p *page) picture(t *testing.T, name string) {
	t.Helper()
	folder := os.Getenv("MEGAPHONE_PICTURES")
	if folder == "" {
		return
	}
	p.do("Emulation.setScrollbarsHidden", map[string]any{"hidden": true})
	var shot struct{ Data []byte }
	err := p.browser.call(p.session, "Page.captureScreenshot", map[string]any{
		"format": "webp", "quality": 45, "captureBeyondViewport": !strings.HasSuffix(name, "-phone"),
	}, &shot)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name+".webp"), shot.Data, 0o600); err != nil {
		t.Fatal(err)
	}
}
