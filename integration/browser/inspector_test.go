//go:build browser

package browser

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// An inspector is a server whose site has the Inspector, and what may be below other paths.
type inspector struct {
	server         *testserver.Server
	settings, site string
	url            string // ends without a slash
}

// startInspector runs a server with these settings. Its site has everything below /inside/, and only reads below /reading/.
func startInspector(t *testing.T, settings string) inspector {
	t.Helper()
	port := testserver.FreePort(t)
	i := inspector{
		server:   testserver.New(t),
		settings: "megaphone {\n" + settings + "\n}",
		url:      fmt.Sprintf("http://127.0.0.1:%d", port),
		site: fmt.Sprintf(`
http://127.0.0.1:%d {
	bind 127.0.0.1
	handle_path /inside/* {
		megaphone create write read exists manage topics publish ui
	}
	handle_path /reading/* {
		megaphone read ui {
			transports sse poll
		}
	}
}`, port),
	}
	i.server.Start(i.settings, i.site)
	return i
}

// try opens the page to try things, and makes channels: one for each transport, or one for all.
func (i inspector) try(b *browser, mode string) *page {
	b.tb.Helper()
	p := b.show(i.url+"/inside/ui/#try", views[0])
	p.await("channels can be created", `document.querySelector("#create button:enabled")`)
	if mode != "" {
		p.click("input[value=" + mode + "]")
		p.click("#create button")
		p.await("messages can be written", `document.querySelector("#write button:enabled")`)
	}
	return p
}

const written = `document.querySelector("#written").value`

// reads counts the cards that read.
const reads = `document.querySelectorAll(".status[data-state=open]").length`

// TestInspector uses the Inspector as people do.
func TestInspector(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	i := startInspector(t, "read_duration 2s\nin_flight 10")
	p := browser.show(i.url+"/inside/ui", views[0])
	p.await("there is no channel", `document.querySelector("#no-channels").innerText.startsWith("There is no channel.")`)
	p.click("#to-try")
	p.await("channels can be created", `document.querySelector("#create").checkVisibility()`)
	p.wantNoFaults()
	p.click("#create button")
	p.await("there are four channels", `document.querySelectorAll("#own li").length === 4`)
	p.click("#read-all")
	p.await("all cards read", reads+` === 4`)
	p.click("#write button[value='10']")
	p.await("ten messages are written", written+`.startsWith("10 messages accepted")`)
	for n, transport := range []string{"NDJSON", "Server-sent events", "WebSocket", "Long polling"} {
		card := fmt.Sprintf("#readers article:nth-child(%d) ", n+1)
		messages := fmt.Sprintf(`[...document.querySelectorAll("%s.events .meta")].length`, card)
		p.await(transport+" has ten messages", messages+` === 10`)
		p.await(transport+" has none twice", fmt.Sprintf(`!document.querySelector("%s.again")`, card))
		p.await(transport+" shows a latency of the right size",
			fmt.Sprintf(`/^(< )?[\d.]+ ms$/.test([...document.querySelectorAll("%s.figures div")].find((d) => d.innerText.startsWith("Latency, median")).lastChild.innerText)`, card))
	}
	p.await("the states of channels are shown", `document.querySelector("#own .words").innerText.startsWith("read now")`)
	p.await("the totals are shown", tile("Channels", "4")+" && "+tile("Readers", "4"))
	p.await("a read has ended cleanly", `document.querySelector("#readers .note")?.innerText.startsWith("The read ended cleanly")`)

	p.click("#to-channels")
	p.await("the page's channels are listed", `document.querySelectorAll("#list .tag:not([hidden])").length === 4`)
	p.click("#list button.open")
	p.await("it says what is known of settled messages",
		`/^Settled [1-9]\d* on this server\n/.test(document.querySelector("#list .stages").innerText)`)
	p.wantNoFaults()
	p.click("#to-try")

	// A reader without cursors makes the server release messages that the other reader has not seen. That one gets a
	// gap.
	p.click("#stop-all")
	p.click("input[value=one]")
	p.click("#create button")
	p.await("there is one channel", `document.querySelectorAll("#own li").length === 1`)
	p.click(events + ".toggle")
	p.await("server-sent events are read", `document.querySelector("`+events+`.status[data-state=open]")`)
	p.click("#write button")
	p.await("the message has come", eventsFigure("Messages", "1"))
	p.click("#stop-all")
	p.await("nobody reads", reads+" === 0")
	p.click("#readers article:nth-child(1) input[type=checkbox]")
	p.click("#readers article:nth-child(1) .toggle")
	for range 2 {
		p.run(`document.querySelector("#written").value = ""`)
		p.click("#write button[value='10']")
		p.await("ten more messages are written", written+`.startsWith("10 messages accepted")`)
	}
	p.await("the reader without cursors has them", `document.querySelectorAll("#readers article:nth-child(1) .meta").length >= 20`)
	p.click("#stop-all")
	p.click(events + ".toggle")
	p.await("there is a gap", eventsFigure("Gaps", "1"))
	p.await("the page reports the gap", `[...document.querySelectorAll("`+events+`.note")].some((n) => n.innerText.startsWith("Gap:"))`)

	// A path cannot have this stream id.
	p.run(`document.querySelector("[name=stream]").value = ".."`)
	p.click("#write button")
	p.await("a message to the stream .. is written", written+`.startsWith("Message ") && `+written+`.includes(" accepted, ")`)
	p.await("it has come", `[...document.querySelectorAll("`+events+`.meta")].some((meta) => meta.innerText.includes(".."))`)

	p.click("#own .danger")
	p.await("the channel is gone", `document.querySelector("#own .words").innerText === "is gone"`)
	p.await("its reader knows that", `document.querySelector("`+events+`.status").innerText === "channel is gone"`)

	// The page reports mistakes.
	p.run(`document.querySelector("[name=body]").value = "{"`)
	p.click("#write button")
	p.await("the body is refused", written+`.startsWith("The body is not JSON")`)
	p.wantNoFaults()
}

// TestInspectorShowsAnyChannel: channels can be searched for, sorted and opened, and their state is told in words.
func TestInspectorShowsAnyChannel(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	i := startInspector(t, "buffer 5\nhold 1m")
	at := producer{t, i.url + "/inside"}
	channels := at.make(120)
	at.write(channels[7], 3)
	at.write(channels[9], 5)
	at.holdWrite(channels[9])
	p := browser.show(i.url+"/inside/ui/", views[0])
	p.await("a hundred channels are listed", `document.querySelector("#listed").innerText === "100 of 120 channels listed"`)
	p.await("a held producer is counted", tile("Held producers", "1"))

	p.click("#view-channels th button[value=held]")
	first := `document.querySelector("#list tr").innerText`
	p.await("the full channel is first", first+`.includes("full: 1 producer held, 5 pending")`)
	p.click("#view-channels th button[value=held]")
	p.await("it is last", first+`.includes("empty")`)
	p.await("the order is told", `document.querySelector("th[aria-sort=ascending]").innerText === "Held"`)

	p.run(`document.querySelector("#only").value = "pending"; document.querySelector("#only").onchange()`)
	p.await("two channels have pending messages", `document.querySelectorAll("#list tr:not(.details)").length === 2`)
	p.click("#view-channels th button[value=pending]")
	p.click("#list button.open")
	p.await("no message was settled", `document.querySelector("#list .stages").innerText.startsWith("Settled none yet\n")`)
	p.await("its buffer is shown", `document.querySelector("#list .stages").innerText.includes("5 of 5")`)
	time.Sleep(2500 * time.Millisecond) // the page is refreshed meanwhile
	p.await("it is still open", `document.querySelector("#list .stages").checkVisibility()`)

	// A channel beyond the end of the list is found by its address.
	p.run(`document.querySelector("#only").value = ""`)
	for _, c := range channels[len(channels)-3:] {
		p.run(fmt.Sprintf(`document.querySelector("#search").value = %q; document.querySelector("#search").oninput()`, c.ConsumerAddress))
		p.await("the channel is found", `document.querySelectorAll("#list tr:not(.details)").length === 1`)
	}
	p.run(`document.querySelector("#search").value = "nobody has this"; document.querySelector("#search").oninput()`)
	p.await("the page says that there is none", `document.querySelector("#no-channels").innerText.startsWith("No listed channel is like that.")`)
	p.wantNoFaults()
}

// TestInspectorShowsTopics checks the view of topics.
func TestInspectorShowsTopics(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	i := startInspector(t, "")
	at := producer{t, i.url + "/inside"}
	p := browser.show(i.url+"/inside/ui/#topics", views[0])
	p.await("there is no topic", `document.querySelector("#no-topics").innerText.startsWith("There is no topic.")`)
	at.post("/create", `{"topics":["news"]}`)
	p.await("the topic is shown", `document.querySelector("#topic-list tr")?.innerText.startsWith("news\t1\t0\t0\topen")`)
	p.wantNoFaults()
}

// events is the card that reads server-sent events.
const events = "#readers article:nth-child(2) "

// eventsFigure returns a script that reports whether a figure of that card has a value.
func eventsFigure(name, value string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("%s.figures div")].some((d) => d.textContent === %q)`, events, name+value)
}

// tile returns a script that reports whether a figure of the server has a value.
func tile(name, value string) string {
	return fmt.Sprintf(`[...document.querySelectorAll(".tile")].some((tile) => tile.querySelector("h3").innerText === %q && tile.querySelector("b").innerText === %q)`, name, value)
}
