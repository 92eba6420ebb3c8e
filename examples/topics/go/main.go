// Command go publishes the log of a build to everybody who has joined its topic, and ends the topic. It needs nothing but the
// standard library; package client/go does more. MEGAPHONE_URL is the URL of the server, such as http://127.0.0.1:3000.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	topic := fmt.Sprintf("build-%d", os.Getpid())

	// A page's channel. It knows topics, so it learns what it has missed, and when a topic ends.
	var channel struct{ ProducerAddress, ConsumerAddress string }
	send("POST", "/create", map[string]any{"topics": []string{}}, &channel)

	// It joins, and gets first what the topic keeps, if the server keeps any. In one request:
	// {"topics":[{"topic":"…","last":"all"}]}
	send("PUT", "/topic/"+topic+"/"+channel.ProducerAddress+"?last=all", nil, nil)

	var result struct{ Members, Accepted, Full int }
	send("POST", "/publish/"+topic+"/log", map[string]string{"text": "hello"}, nil)
	send("POST", "/publish/"+topic+"/log", map[string]string{"text": "world"}, &result)
	fmt.Fprintf(os.Stderr, "%d of %d members have it, %d were too slow\n", result.Accepted, result.Members, result.Full)
	send("POST", "/topic/"+topic+"/close", map[string]string{"as": "done"}, nil) // later publishes get 409

	fmt.Println(channel.ConsumerAddress) // a member reads the messages at /read/ plus this address
}

// send sends a request with a body as JSON, and decodes the reply. Both may be nil.
func send(method, path string, body, reply any) {
	var encoded bytes.Buffer
	if body != nil {
		check(json.NewEncoder(&encoded).Encode(body))
	}
	request, err := http.NewRequest(method, os.Getenv("MEGAPHONE_URL")+path, &encoded) //nolint:gosec,noctx // we choose the URL, and the process ends with the request
	check(err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request) //nolint:gosec // we choose the URL
	check(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	check(err)
	if response.StatusCode >= 300 {
		check(fmt.Errorf("%s %s: %s %s", method, path, response.Status, text))
	}
	if reply != nil {
		check(json.Unmarshal(text, reply))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
