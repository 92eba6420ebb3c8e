//go:build browser

package browser

import (
	"os"
	"slices"
	"testing"
	"time"
)

// inspectorViews are the views of the Inspector, in all of which something is to be seen.
var inspectorViews = []string{"channels", "topics", "try"}

// fillInspector makes channels that are in all kinds of states, and topics. It returns those that are read. The buffer must hold
// 20 messages.
func fillInspector(at producer) (read []channel) {
	at.t.Helper()
	at.post("/create", `{"topics":["news","chat"]}`)
	channels := at.make(9)
	for n, c := range channels {
		at.write(c, []int{0, 3, 20, 0, 1, 7, 12, 0, 2}[n])
	}
	at.holdWrite(channels[2])
	at.holdWrite(channels[2])
	for _, c := range channels[5:] {
		at.read(c)
	}
	return channels[5:]
}

// TestInspectorIsAccessible checks all views, in light and dark, small and large, with axe-core and with what wantNoFaults knows.
func TestInspectorIsAccessible(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	script := findAxe(t)
	i := startInspector(t, "buffer 20\nhold 1m")
	fillInspector(producer{t, i.url + "/inside"})
	p := i.try(browser, "one")
	p.click("#read-all")
	p.await("one card reads", reads+" === 1")
	p.click("#write button[value='10']")
	p.await("messages have come", `document.querySelector(".events .meta")`)
	check := func(what string) {
		t.Helper()
		for _, v := range append([]view{{"wide", 1920, 1080, true}, {"tablet", 768, 1024, false}}, views...) {
			p.look(v)
			p.wantNoFaults()
			if v.name == "dark" || v.name == "phone" { // the others have the same colors and parts as one of these
				p.wantAccessible(script, what+", "+v.name)
			}
		}
	}
	for _, view := range inspectorViews {
		p.run(`location.hash = "` + view + `"`)
		p.await(view+" is shown", `document.querySelector("#view-`+view+`").checkVisibility()`)
		if view == "channels" {
			p.await("channels are listed", `document.querySelectorAll("#list .open").length > 9`)
			p.run(`document.querySelectorAll("#list .open").forEach((button) => button.click())`)
		}
		check(view)
	}
	i.server.Kill()
	p.await("the page says that the server is gone", `document.querySelector("#banner").checkVisibility()`)
	check("without a server")
}

// TestInspectorByKeyboard: the Tab key reaches all that can be used, in the order in which it is on the page, and shows where it is.
func TestInspectorByKeyboard(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	i := startInspector(t, "buffer 20\nhold 1m")
	fillInspector(producer{t, i.url + "/inside"})
	p := i.try(browser, "each")
	p.await("channels can be deleted", `document.querySelectorAll("#own .danger").length === 4`)
	p.run(`window.start = document.createElement("i"); start.tabIndex = -1; document.body.prepend(start)`)
	for _, view := range inspectorViews {
		p.run(`location.hash = "` + view + `"`)
		p.await(view+" is shown", `document.querySelector("#view-`+view+`").checkVisibility()`)
		p.run(`window.stops = [...document.querySelectorAll("a[href], button:enabled, input:enabled, select, textarea, summary, [tabindex='0']")]
			.filter((e) => e.checkVisibility() && !(e.type === "radio" && !e.checked));
			window.visited = []; start.focus()`)
		want := p.list(`stops.map((e) => e.id + " " + e.className + " " + e.innerText.slice(0, 20))`)
		for range want {
			p.press("Tab", "Tab", 9)
			p.run(`visited.push(document.activeElement); if (getComputedStyle(document.activeElement).outlineStyle === "none") faults.push("no outline: " + document.activeElement.outerHTML.slice(0, 80))`)
		}
		if got := p.list(`visited.map((e) => e.id + " " + e.className + " " + e.innerText.slice(0, 20))`); !slices.Equal(got, want) {
			t.Errorf("%s: the Tab key visits %q, want %q", view, got, want)
		}
		p.wantNoFaults()
	}

	p.run(`location.hash = "channels"`)
	p.await("channels are listed", `document.querySelector("#list .open")?.checkVisibility()`)
	p.run(`document.querySelector("#list .open").focus()`)
	p.press("Enter", "Enter", 13)
	p.await("a channel is open", `document.querySelector("#list .open[aria-expanded=true]") && document.querySelector("#list .stages").checkVisibility()`)
	time.Sleep(2500 * time.Millisecond) // the page is refreshed meanwhile
	p.await("the focus is where it was", `document.activeElement === document.querySelector("#list .open")`)
}

// TestInspectorPictures makes the pictures of the documentation.
func TestInspectorPictures(t *testing.T) {
	if os.Getenv("MEGAPHONE_PICTURES") == "" {
		t.Skip("SKIPPED: MEGAPHONE_PICTURES does not name a folder for pictures")
	}
	browser := startBrowser(t, findChromium(t))
	i := startInspector(t, "buffer 20\nhold 5m\nread_duration 5m\nttl 5m")
	at := producer{t, i.url + "/inside"}
	p := browser.show(i.url+"/inside/ui/", views[0])
	p.await("the page is there", `document.querySelector("#no-channels").innerText`)
	time.Sleep(5 * time.Second)
	read := fillInspector(at)
	for n := range 240 { // a minute
		for range 1 + (n/20)%4 {
			at.write(read[n%len(read)], 1)
		}
		time.Sleep(200 * time.Millisecond)
	}
	p.click("#view-channels th button[value=held]")
	p.click("#list .open")
	p.pictures(t, "ui")

	p.look(views[0])
	p.click("#to-try")
	p.click("#create button")
	p.await("there are four channels", `document.querySelectorAll("#own li").length === 4`)
	p.click("#read-all")
	p.await("all cards read", reads+` === 4`)
	p.click("#write button[value='10']")
	p.await("ten messages are written", written+`.startsWith("10 messages accepted")`)
	time.Sleep(2500 * time.Millisecond)
	p.wantNoFaults()
	p.picture(t, "ui-try")
	i.server.Kill()
	p.click("#to-channels")
	p.await("the page says that the server is gone", `document.querySelector("#banner").checkVisibility()`)
	p.picture(t, "ui-down")
}
