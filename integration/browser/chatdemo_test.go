//go:build browser

package browser

import (
	"fmt"
	"regexp"
	"testing"
)

const (
	here  = `[...document.querySelectorAll("#people li")].map((li) => li.innerText.replaceAll("\n", " ").trim())`
	news  = `(document.querySelector("#news")?.innerText ?? "")`
	state = `document.querySelector("#state").innerText`
)

// TestTheChatShowsWhatHappens uses the demo as its visitors do: in two windows of one browser, with the page's buttons.
func TestTheChatShowsWhatHappens(t *testing.T) {
	browser := startBrowser(t, findChromium(t), "--ignore-certificate-errors")
	demo := startDemo(t)
	ann := demo.enter("Ann Lee", browser)
	bob := demo.enter("Bob", browser)

	t.Run("each window is a person", func(t *testing.T) {
		for _, p := range []*page{ann, bob} {
			p.within(t, "two people are there", here+".length === 2")
		}
		bob.enter("#text", "Hello from Bob")
		ann.within(t, "the message is of somebody else", `document.querySelector(".message:not(.mine) .text")?.innerText === "Hello from Bob"`)
		ann.do("Page.reload", nil)
		ann.within(t, "she is the same after a reload", here+`.some((who) => who.includes("Ann Lee (you)"))`)
	})
	t.Run("who is connected how", func(t *testing.T) {
		ann.within(t, "both are connected by WebSocket", here+`.filter((who) => who.includes("WebSocket")).length === 2`)
		bob.choose(t, "#transport", "poll")
		ann.within(t, "Bob polls", here+`.some((who) => who.includes("Bob") && who.includes("long polling"))`)
		bob.enter("#text", "by poll")
		for _, p := range []*page{ann, bob} {
			p.within(t, "the message has come", texts+`.includes("by poll")`)
		}
		bob.choose(t, "#transport", "sse")
		ann.within(t, "Bob uses server-sent events", here+`.some((who) => who.includes("Bob") && who.includes("server-sent events"))`)
	})
	t.Run("links can be clicked, and nothing else is markup", func(t *testing.T) {
		text := `<b>see</b> https://example.com/a?b=1&c="x" (or http://example.com/b), <img src=x onerror=faults.push("xss")> javascript:faults.push(1) http:// data:text/html,x`
		ann.enter("#text", text)
		bob.within(t, "the text is as written", fmt.Sprintf("%s.includes(%q)", texts, text))
		var links string
		if err := bob.evaluate(`[...document.querySelectorAll("#messages .message:last-child .text *")].map((e) => [e.tagName, e.href, e.target, e.rel].join(" ")).join("\n")`, &links); err != nil {
			t.Fatal(err)
		}
		const attributes = " _blank noopener noreferrer"
		if want := "A https://example.com/a?b=1&c=" + attributes + "\nA http://example.com/b" + attributes; links != want {
			t.Errorf("the message has\n%s\nwant\n%s", links, want)
		}
	})
	t.Run("names can be reached on a phone", func(t *testing.T) {
		ann.do("Page.bringToFront", nil)
		ann.look(views[2])
		defer ann.look(views[0])
		ann.within(t, "the list is closed", `!document.querySelector("#here").open`)
		ann.tap(t, "#here summary")
		ann.within(t, "the names are in view", `[...document.querySelectorAll("#people li")].every((li) => {
			const box = li.getBoundingClientRect();
			const text = document.elementFromPoint(box.left + 60, box.top + box.height / 2);
			return li.contains(text) && li.innerText.length > 3 && box.bottom < innerHeight;
		})`)
		ann.tap(t, "#composer textarea")
		ann.within(t, "a tap elsewhere closes the list", `!document.querySelector("#here").open`)
	})
	t.Run("it is not live while a message is being sent", func(t *testing.T) {
		ann.run(`window.contradictions = [];
			new MutationObserver(() => {
				if (document.querySelector("#unsent")?.innerText.includes("sending") && ` + state + ` === "live") contradictions.push(document.body.innerText);
			}).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true })`)
		demo.stopBackend()
		ann.enter("#text", "to a backend that is away")
		ann.within(t, "the bubble says that it is being sent", `document.querySelector("#unsent").innerText.includes("sending")`)
		ann.within(t, "the state says so too", state+` === "sending"`)
		demo.startBackend()
		ann.within(t, "it is sent", texts+`.includes("to a backend that is away")`)
		ann.within(t, "it is live", state+` === "live"`)
		if found := ann.list("contradictions"); len(found) > 0 {
			t.Errorf("it was live while a bubble said that it was being sent: %q", found[0])
		}
	})
	t.Run("the Inspector is a click away", func(t *testing.T) {
		var link string
		ann.within(t, "there is a link", `document.querySelector("#inspector")?.href`)
		if err := ann.evaluate(`document.querySelector("#inspector").href`, &link); err != nil {
			t.Fatal(err)
		}
		inspector := browser.show(link, views[0])
		inspector.within(t, "it lists the chat's channels", `document.querySelectorAll("#list tr, [data-channel]").length >= 2`)
	})
	for _, p := range []*page{ann, bob} {
		p.run(`location.hash = "#workshop"`)
	}
	for _, p := range []*page{ann, bob} {
		p.within(t, "both are in the other room", here+".length === 2")
	}
	t.Run("a reload of Caddy", func(t *testing.T) {
		testButton(t, ann, bob, "reload", "The page moved to the new configuration after ", "I reload Caddy now.", "Are you still there?", "Yes, and I have lost nothing.")
	})
	t.Run("a stop of the server", func(t *testing.T) {
		testButton(t, ann, bob, "stop", "The server was away for ", "The server is gone.", "This waits in my page.", "And this in mine.")
		bob.within(t, "Bob's page says so too, by another transport", news+`.startsWith("The server was away for ")`)
		ann.do("Page.bringToFront", nil)
		ann.click("#connection summary")
		ann.picture(t, "demo-connection")
	})
	ann.run("faults = []") // of requests to a server that was away
	t.Run("without the buttons' backend, there is a command", func(t *testing.T) {
		cleo := browser.open("about:blank")
		cleo.do("Network.setBlockedURLs", map[string]any{"urls": []string{"*/demo/state"}})
		var url string
		if err := ann.evaluate("location.href", &url); err != nil {
			t.Fatal(err)
		}
		cleo.do("Page.navigate", map[string]any{"url": url})
		cleo.within(t, "there is a command, and no button", `document.querySelector("#by-hand")?.checkVisibility() && !document.querySelector("#stop").checkVisibility()`)
	})
	t.Run("no barriers", func(t *testing.T) {
		ann.wantNoBarriers(t, "the chat", allViews)
		for _, panel := range []string{"here", "try", "connection"} {
			ann.run(fmt.Sprintf(`document.querySelectorAll("details").forEach((e) => (e.open = e.id === %q))`, panel))
			ann.wantNoBarriers(t, panel, allViews[:2])
			ann.run(`document.querySelector("#connection").open = false`)
		}
	})
}

// testButton presses a button of Ann's page while both write. The last of the texts is Bob's. The page says what has happened.
func testButton(t *testing.T, ann, bob *page, button, told string, says ...string) {
	t.Helper()
	ann.within(t, "there is a button", fmt.Sprintf("document.querySelector('#%s:not([hidden])')", button))
	ann.click("#" + button)
	if button == "stop" {
		for _, p := range []*page{ann, bob} {
			p.within(t, "the page has lost its connection", state+` !== "live"`)
		}
	}
	for i, text := range says {
		[]*page{ann, ann, bob}[i].enter("#text", text)
		if button != "stop" {
			bob.within(t, "the message has come", fmt.Sprintf("%s.includes(%q)", texts, text))
		}
	}
	ann.within(t, "it says what has happened", fmt.Sprintf("%s.startsWith(%q)", news, told))
	var outcome string
	if err := ann.evaluate(news, &outcome); err != nil {
		t.Fatal(err)
	}
	// Bob's page may connect later than Ann's, so that his message comes when she has told already.
	if !regexp.MustCompile(` (3 messages were held, 2 of them yours|2 messages of yours were held)\. All delivered, none twice\.$`).MatchString(outcome) {
		t.Errorf("it says %q", outcome)
	}
	for _, p := range []*page{ann, bob} {
		for _, text := range says {
			p.within(t, "each has come once", fmt.Sprintf("%s.filter((text) => text === %q).length === 1", texts, text))
		}
	}
}

// allViews are the views in which a page must have no barriers, from phones to large screens.
var allViews = []view{
	{"phone", 390, 844, false},
	{"dark phone", 390, 844, true},
	{"tablet", 768, 1024, false},
	{"light", 1280, 800, false},
	{"large and dark", 1920, 1080, true},
}

// wantNoBarriers checks in each view that nothing keeps people from using a page.
func (p *page) wantNoBarriers(t *testing.T, what string, views []view) {
	t.Helper()
	script := findAxe(t)
	for _, v := range views {
		p.look(v)
		p.wantAccessible(script, what+", "+v.name)
		for _, barrier := range p.list(barriers) {
			t.Errorf("%s, %s: %s", what, v.name, barrier)
		}
	}
}

// within waits like await, but fails the subtest only.
func (p *page) within(t *testing.T, what, expression string) {
	t.Helper()
	whole := p.browser.tb
	p.browser.tb = t
	defer func() { p.browser.tb = whole }()
	p.await(what, expression)
}

// choose chooses an option of a select element.
func (p *page) choose(t *testing.T, selector, value string) {
	t.Helper()
	p.within(t, "there is a choice", fmt.Sprintf("document.querySelector(%q)", selector))
	p.run(fmt.Sprintf(`const field = document.querySelector(%q); field.value = %q; field.dispatchEvent(new Event("change"))`, selector, value))
}

// tap presses the middle of an element, as a finger does.
func (p *page) tap(t *testing.T, selector string) {
	t.Helper()
	p.within(t, "there is a "+selector, fmt.Sprintf("document.querySelector(%q)?.checkVisibility()", selector))
	var box struct{ X, Y float64 }
	if err := p.evaluate(fmt.Sprintf(`(({ x, y, width, height }) => ({ x: x + width / 2, y: y + height / 2 }))(document.querySelector(%q).getBoundingClientRect())`, selector), &box); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		p.do("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": box.X, "y": box.Y, "button": "left", "clickCount": 1})
	}
}
