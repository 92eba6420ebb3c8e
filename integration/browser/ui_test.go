//go:build browser

package browser

import (
	"fmt"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestTheUI uses the page to look inside as people do.
func TestTheUI(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	server := testserver.New(t)
	port := testserver.FreePort(t)
	server.Start("megaphone {\n read_duration 2s\n}", fmt.Sprintf(`
http://127.0.0.1:%d {
	bind 127.0.0.1
	handle_path /inside/* {
		megaphone create write read exists manage ui
	}
}`, port))
	p := browser.show(fmt.Sprintf("http://127.0.0.1:%d/inside/ui", port), views[0])
	const written = `document.querySelector("#written").value`
	p.await("channels can be created", `document.querySelector("#create button:enabled")`)
	p.wantNoFaults()
	p.click("#create button")
	p.await("there are four channels", `document.querySelectorAll("#channels tbody tr").length === 4`)
	p.click("#read-all")
	p.await("all read", `document.querySelectorAll(".status[data-state=open]").length === 4`)
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

	// One channel for all: the readers take it from each other, or are refused.
	p.click("input[value=one]")
	p.click("#create button")
	p.await("there is one channel", `document.querySelectorAll("#channels tbody tr").length === 1`)
	p.click("#readers article:nth-child(2) .toggle")
	p.await("server-sent events are read", `document.querySelector("#readers article:nth-child(2) .status[data-state=open]")`)
	p.click("#readers article:nth-child(4) .toggle")
	p.await("the poll is refused", `document.querySelector("#readers article:nth-child(4) .note")?.innerText === "Refused: 409 BUSY"`)
	p.click("#stop-all")
	p.await("nobody reads", `document.querySelectorAll(".status[data-state=open]").length === 0`)

	p.click("#channels .small")
	p.await("the channel is gone", `document.querySelector("td.state").innerText === "is gone"`)

	// Mistakes are told.
	p.run(`document.querySelector("[name=body]").value = "{"`)
	p.click("#write button")
	p.await("the body is refused", written+`.startsWith("The body is not JSON")`)
	p.wantNoFaults()
}
