//go:build browser

package browser

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestTheUI uses the Inspector as people do.
func TestTheUI(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	server := testserver.New(t)
	port := testserver.FreePort(t)
	server.Start("megaphone {\n read_duration 2s\n in_flight 10\n}", fmt.Sprintf(`
http://127.0.0.1:%d {
	bind 127.0.0.1
	handle_path /inside/* {
		megaphone create write read exists manage ui
	}
	handle_path /reading/* {
		megaphone read ui {
			transports sse poll
		}
	}
}`, port))
	p := browser.show(fmt.Sprintf("http://127.0.0.1:%d/inside/ui", port), views[0])
	const written = `document.querySelector("#written").value`
	p.await("channels can be created", `document.querySelector("#create button:enabled")`)
	p.wantNoFaults()
	p.click("#create button")
	p.await("there are four channels", `document.querySelectorAll("#channels tbody tr").length === 4`)
	p.click("#read-all")
	p.await("all cards read", `document.querySelectorAll(".status[data-state=open]").length === 4`)
	p.click("#write button[value='10']")
	p.await("ten messages are written", written+`.startsWith("10 messages accepted")`)
	for i, transport := range []string{"NDJSON", "Server-sent events", "WebSocket", "Long polling"} {
		card := fmt.Sprintf("#readers article:nth-child(%d) ", i+1)
		messages := fmt.Sprintf(`[...document.querySelectorAll("%s.events .meta")].length`, card)
		p.await(transport+" has ten messages", messages+` === 10`)
		p.await(transport+" has none twice", fmt.Sprintf(`!document.querySelector("%s.again")`, card))
		p.await(transport+" shows a latency of the right size",
			fmt.Sprintf(`/^(< )?[\d.]+ ms$/.test([...document.querySelectorAll("%s.figures div")].find((d) => d.innerText.startsWith("Latency, median")).lastChild.innerText)`, card))
	}
	p.await("the states of channels are shown", `document.querySelector("td.state").innerText.startsWith("is read")`)
	p.await("the server's channels are listed", `document.querySelectorAll("#list tr").length === 4`)
	p.await("a read has ended cleanly", `document.querySelector("#readers .note")?.innerText.startsWith("The read ended cleanly")`)
	p.pictures(t, "ui")

	// With one channel for all, the readers take over from each other, or the server refuses them.
	p.click("input[value=one]")
	p.click("#create button")
	p.await("there is one channel", `document.querySelectorAll("#channels tbody tr").length === 1`)
	p.click(events + ".toggle")
	p.await("server-sent events are read", `document.querySelector("`+events+`.status[data-state=open]")`)
	p.click("#readers article:nth-child(4) .toggle")
	p.await("the poll is refused", `document.querySelector("#readers article:nth-child(4) .note")?.innerText === "Refused: 409 BUSY"`)
	p.click("#readers article:nth-child(4) .toggle")
	p.click("#write button")
	p.await("the message has come", eventsFigure("Messages", "1"))
	p.click("#stop-all")
	p.await("nobody reads", `!document.querySelector(".status:is([data-state=open], [data-state=wait])")`)

	// If all read at once, they take over from each other endlessly, but not as fast as they can.
	p.click("#read-all")
	time.Sleep(3 * time.Second)
	p.run(`document.querySelector("#stop-all").click()`)
	p.await("there were a few reads each", `[...document.querySelectorAll("#readers .figures div:first-child dd")].every((dd) => Number(dd.innerText) < 15)`)
	p.await("nobody reads", `!document.querySelector(".status:is([data-state=open], [data-state=wait])")`)

	// A reader without cursors makes the server release messages that the other reader has not seen. That one gets a
	// gap.
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

	p.click("#channels .small")
	p.await("the channel is gone", `document.querySelector("td.state").innerText === "is gone"`)
	p.await("its reader knows that", `document.querySelector("`+events+`.status").innerText === "channel is gone"`)

	// The page reports mistakes.
	p.run(`document.querySelector("[name=body]").value = "{"`)
	p.click("#write button")
	p.await("the body is refused", written+`.startsWith("The body is not JSON")`)
	p.wantNoFaults()

	// Another site has fewer endpoints and transports.
	p = browser.show(fmt.Sprintf("http://127.0.0.1:%d/reading/ui/", port), views[0])
	p.await("the page reports what is missing", `document.querySelector("#notice").innerText.startsWith("This site does not serve create, write:")`)
	p.await("two transports are offered", `document.querySelectorAll("#readers article").length === 2`)
	p.run(`document.querySelector("details").open = true; document.querySelector("[name=consumer]").value = "main.unknown"`)
	p.click("#existing button")
	p.click("#read-all")
	p.await("the channel is not found", `[...document.querySelectorAll(".status")].every((s) => s.innerText === "channel is gone")`)
	p.await("nothing can be created, written, or deleted", `!document.querySelector(":is(#create, #write) button:enabled, td.state:not([hidden])")`)
	p.wantNoFaults()
}

// events is the card that reads server-sent events.
const events = "#readers article:nth-child(2) "

// eventsFigure returns a script that reports whether a figure of that card has a value.
func eventsFigure(name, value string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("%s.figures div")].some((d) => d.textContent === %q)`, events, name+value)
}
