// Command go creates a channel and writes to it. MEGAPHONE_URL is the URL of the server, such as http://127.0.0.1:3000.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
)

func main() {
	channel, path := struct{ ProducerAddress, ConsumerAddress string }{}, "/create"
	for _, body := range []string{"", `{"text":"hello"}`, `{"text":"world"}`} {
		response, err := http.Post(os.Getenv("MEGAPHONE_URL")+path, "application/json", strings.NewReader(body)) //nolint:gosec,noctx // we choose the URL
		if err != nil || response.StatusCode >= 300 || json.NewDecoder(response.Body).Decode(&channel) != nil {
			panic(fmt.Sprint(path, ": ", err, response))
		}
		_ = response.Body.Close()
		path = "/write/" + channel.ProducerAddress + "/news"
	}
	fmt.Println(channel.ConsumerAddress) // a consumer reads the messages at /read/ plus this address
}
