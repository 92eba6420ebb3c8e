// Command go creates a channel and writes to it.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
)

func main() {
	server := cmp.Or(os.Getenv("MEGAPHONE_URL"), "http://127.0.0.1:3000")
	channel := post(server+"/create", "")
	post(server+"/write/"+channel.ProducerAddress+"/news", `{"text":"hello"}`)
	post(server+"/write/"+channel.ProducerAddress+"/news", `{"text":"world"}`)

	// Whoever is to get the messages reads at /read/ and this address.
	fmt.Println(channel.ConsumerAddress)
}

func post(url, body string) (reply struct{ ProducerAddress, ConsumerAddress string }) {
	response, err := http.Post(url, "application/json", strings.NewReader(body)) //nolint:gosec,noctx // the URL is ours
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewDecoder(response.Body).Decode(&reply); err != nil || response.StatusCode >= 300 {
		log.Fatalf("the server replied with status %d", response.StatusCode) //nolint:gosec // a number
	}
	_ = response.Body.Close()
	return reply
}
