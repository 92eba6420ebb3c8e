//go:build browser

package browser

import (
	"testing"
	"time"
)

// TestInspectorFaults: each of these was a fault of the page.
func TestInspectorFaults(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	for name, test := range map[string]func(*testing.T, *browserOf){
		"without a hold time, the page says that a full channel refuses": testNoHold,
		"a server that is down is told, and so is its return":            testServerDown,
		"a drained server is told":                                       testServerDrained,
		"readers of one channel say who has taken over":                  testTakeover,
		"a held write is told while it is held, and after it":            testHeldWrite,
		"repeats of a key are no messages":                               testRepeatedKey,
		"writing on is a switch":                                         testSteadyWriter,
		"what is empty says so":                                          testEmptyStates,
		"a site that does not serve something is no fault":               testSmallSite,
		"a page of a phone is short, and has all at hand":                testPhone,
	} {
		t.Run(name, func(t *testing.T) { test(t, &browserOf{browser, t}) })
	}
}

// A browserOf is a browser that several tests share. Its pages report to the test that opens them.
type browserOf struct {
	shared *browser
	t      *testing.T
}

func (b *browserOf) own() *browser {
	b.shared.tb = b.t // the tests run one after the other
	return b.shared
}

func testNoHold(t *testing.T, b *browserOf) {
	i := startInspector(t, "hold 0s\nbuffer 1")
	p := i.try(b.own(), "one")
	p.await("the page says what a full channel does", `document.body.innerText.includes("producers are refused at once")`)
	p.await("there is no wait of nothing", `!document.body.innerText.includes("< 0.1 ms")`)
	p.click("#write button[value='10']")
	p.await("the second write is refused", written+`.includes("1 message accepted") && `+written+`.includes("no room in time, 503 TIMEOUT")`)
	p.wantNoFaults()
}

func testServerDown(t *testing.T, b *browserOf) {
	i := startInspector(t, "")
	p := i.try(b.own(), "each")
	p.click("#read-all")
	p.await("all cards read", reads+" === 4")
	const banner = `document.querySelector("[role=alert]:not([hidden])")?.innerText ?? ""`
	i.server.Kill()
	p.await("the page says that the server is gone", `(`+banner+`).startsWith("The server has not answered since")`)
	p.await("so do the tab and what is old", `document.title.startsWith("No answer") && document.body.hasAttribute("data-stale")`)
	p.await("no card claims to read", reads+" === 0")
	p.run("scrollTo(0, 1e6)")
	p.await("nobody can overlook that", `(({ top, bottom }) => top >= 0 && bottom < innerHeight)(document.querySelector("#banner").getBoundingClientRect())`)
	p.click("#write button")
	p.await("a write is not said to be refused", written+`.startsWith("No reply: the server does not answer.")`)
	p.click("#create button")
	p.await("nor is a channel", `document.querySelector("#trouble").innerText === "Not done: the server does not answer."`)
	p.await("no words of the browser", `!document.body.innerText.includes("Failed to fetch")`)

	i.server.Start(i.settings, i.site)
	p.await("the page says nothing any more", `!(`+banner+`).startsWith("The server has")`)
	p.await("the channels are gone", `[...document.querySelectorAll("#own .words")].every((words) => words.innerText === "is gone")`)
	p.wantNoFaults()
}

func testServerDrained(t *testing.T, b *browserOf) {
	i := startInspector(t, "")
	p := i.try(b.own(), "one")
	drain := func(method, path string) {
		t.Helper()
		producer{t, "http://localhost"}.send(i.server.Admin(), method, path, "{}")
	}
	drain("POST", "/megaphone/drain")
	p.await("the page says that the server drains", `document.querySelector("#banner").innerText.startsWith("The server is being drained: 1 channel of 1 left.")`)
	drain("DELETE", "/megaphone/drain")
	p.await("the page says when that has ended", `!document.querySelector("#banner").checkVisibility()`)
	p.wantNoFaults()
}

func testTakeover(t *testing.T, b *browserOf) {
	i := startInspector(t, "")
	p := i.try(b.own(), "one")
	p.click("#read-all")
	p.await("one card reads, and each other one says why not", reads+` === 1 &&
		[...document.querySelectorAll(".status:not([data-state=open])")].every((s) => /^(taken over by|refused: busy)/.test(s.innerText))`)
	for range 30 { // it stays like that
		p.await("one card reads", reads+" === 1")
		time.Sleep(100 * time.Millisecond)
	}
	p.click("#stop-all")
	p.await("nobody reads", reads+" === 0")

	// A reader elsewhere takes over too.
	p.click("#readers article:nth-child(3) .toggle")
	p.await("the WebSocket is read", `document.querySelector("#readers article:nth-child(3) .status[data-state=open]")`)
	var address string
	p.run(`navigator.clipboard.writeText = async (text) => (window.copied = text); document.querySelector("#own button").click()`)
	p.await("the address is copied", "window.copied")
	if err := p.evaluate("copied", &address); err != nil {
		t.Fatal(err)
	}
	producer{t, i.url + "/inside"}.background("GET", "/read/"+address+"?after=")
	p.await("the card says so, and stops", `document.querySelector("#readers article:nth-child(3) .status").innerText === "taken over by another client"`)
	p.wantNoFaults()
}

func testHeldWrite(t *testing.T, b *browserOf) {
	i := startInspector(t, "buffer 3\nhold 1m")
	p := i.try(b.own(), "one")
	p.click("#write button[value='10']")
	p.await("the write is said to be held", written+`.startsWith("Held for ")`)
	p.await("the channel says that it is full", `document.querySelector("#own .words").innerText.includes("full: 1 producer held, 3 pending")`)
	p.click(events + ".toggle")
	p.await("it was held", `/^10 messages accepted, after .* of it held, for want of room.$/.test(`+written+`)`)
	p.wantNoFaults()
}

func testRepeatedKey(t *testing.T, b *browserOf) {
	i := startInspector(t, "")
	p := i.try(b.own(), "each")
	p.click(events + ".toggle")
	p.run(`document.querySelector("[name=key]").value = "order-7"`)
	p.click("#write button[value='10']")
	p.await("one is a message", written+`.startsWith("1 message accepted, 9 repeats of the same key dropped")`)
	p.click("#write button")
	p.await("the next one is not", written+`.startsWith("1 repeat of the same key dropped")`)
	p.run(`document.querySelector("[name=key]").value = "order-{n}"`)
	p.click("#write button[value='10']")
	p.await("other keys are", written+`.startsWith("10 messages accepted")`)
	p.await("so many have come", eventsFigure("Messages", "11"))
	p.wantNoFaults()
}

func testSteadyWriter(t *testing.T, b *browserOf) {
	i := startInspector(t, "")
	p := i.try(b.own(), "one")
	p.await("it is no button among buttons", `document.querySelector("input#steady[role=switch]:not(:checked)")`)
	p.run(`document.querySelector("#steady").focus()`)
	p.press(" ", "Space", 32)
	p.await("it is on", `document.querySelector("#steady:checked")`)
	p.await("it writes", written+`.startsWith("Message 3 accepted")`)
	p.press(" ", "Space", 32)
	p.await("it is off", `!document.querySelector("#steady:checked")`)
	p.wantNoFaults()
}

func testEmptyStates(t *testing.T, b *browserOf) {
	i := startInspector(t, "")
	p := i.try(b.own(), "")
	const blank = `[...document.querySelectorAll("ol, ul, tbody, table, pre, dl, article")].filter((e) => e.checkVisibility() && !e.innerText.trim()).map((e) => e.outerHTML.slice(0, 60))`
	for _, view := range []string{"channels", "topics", "try"} {
		p.run(`location.hash = "` + view + `"`)
		p.await(view+" is shown", `document.querySelector("#view-`+view+`")?.checkVisibility()`)
		for _, box := range p.list(blank) {
			t.Errorf("%s: blank %s", view, box)
		}
		p.await(view+" says that it is empty", `[...document.querySelectorAll(".empty")].some((e) => e.checkVisibility() && e.innerText)`)
	}
	p.wantNoFaults()
}

func testSmallSite(t *testing.T, b *browserOf) {
	i := startInspector(t, "")
	p := b.own().show(i.url+"/reading/ui/", views[0])
	p.await("the page says what is left out", `document.body.innerText.includes("This site does not serve create and write. What needs them is left out here.")`)
	p.await("that is no alarm", `![...document.querySelectorAll("[role=alert], [data-state=bad]")].some((e) => e.checkVisibility())`)
	p.await("two transports are offered", `document.querySelectorAll("#readers article").length === 2`)
	p.await("nothing can be created or written", `![...document.querySelectorAll(":is(#create, #write) button")].some((e) => e.checkVisibility())`)
	p.run(`document.querySelector("[name=consumer]").value = "main.unknown"`)
	p.click("#existing button")
	p.click("#read-all")
	p.await("the channel is not found", `[...document.querySelectorAll(".status")].every((s) => s.innerText === "channel is gone")`)
	p.await("nothing can be deleted", `!document.querySelector(".danger")`)
	p.wantNoFaults()
}

func testPhone(t *testing.T, b *browserOf) {
	i := startInspector(t, "")
	p := i.try(b.own(), "each")
	p.click("#read-all")
	p.click("#write button[value='10']")
	p.await("all cards read", reads+" === 4")
	p.look(views[2])
	for _, view := range []string{"channels", "try"} {
		p.run(`location.hash = "` + view + `"`)
		p.await(view+" is shown", `document.querySelector("#view-`+view+`")?.checkVisibility()`)
		if view == "channels" {
			p.await("channels are listed", `document.querySelectorAll("#list .open").length === 4`)
			p.run(`document.querySelectorAll("#list .open").forEach((button) => button.click())`)
		}
		p.await("there is a button for each channel", `[...document.querySelectorAll(".danger")].filter((e) => e.checkVisibility()).length === 4`)
		for _, far := range p.list(`[...document.querySelectorAll(".danger, .words, .buffer svg")].filter((e) => e.checkVisibility())
			.filter((e) => e.getBoundingClientRect().left < 0 || e.getBoundingClientRect().right > 390).map((e) => e.outerHTML)`) {
			t.Errorf("%s: off the screen: %s", view, far)
		}
		p.run(`document.querySelectorAll("#list .open").forEach((button) => button.click())`)
		var height int
		if err := p.evaluate("document.documentElement.scrollHeight", &height); err != nil || height > 2000 {
			t.Errorf("%s: %d pixels high, %v", view, height, err)
		}
		t.Logf("%s: %d pixels", view, height)
		p.wantNoFaults()
	}
}
