package megaphone_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
)

// A consumer reads its channel until it is gone.
func ExampleClient_Read() { //nolint:testableexamples // needs a server
	server := &megaphone.Client{URL: "https://app.example.com"}
	consumerAddress := "main.r5Fq2BmN3vX8sW1zK7pQ0g" // from the backend
	for event, err := range server.Read(context.Background(), consumerAddress, megaphone.ReadOptions{}) {
		switch {
		case errors.Is(err, megaphone.ErrNotFound):
			log.Print("ask the backend for a new channel")
			return
		case err != nil:
			log.Fatal(err)
		}
		fmt.Println(event.StreamID, string(event.Body))
	}
}

// A backend creates a channel, hands the consumer address to its client, and writes.
func ExampleClient_Write() { //nolint:testableexamples // needs a server
	server := &megaphone.Client{URL: "http://127.0.0.1:3000"}
	channel, err := server.Create(context.Background(), megaphone.CreateOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("for the client:", channel.ConsumerAddress)
	err = server.Write(context.Background(), megaphone.Message{
		Channel: channel.ProducerAddress, StreamID: "news", Body: map[string]string{"title": "Hello"},
	})
	if err != nil {
		log.Fatal(err)
	}
}

// A backend writes many messages in one request.
func ExampleClient_Ingest() { //nolint:testableexamples // needs a server
	server := &megaphone.Client{URL: "http://127.0.0.1:3000"}
	ingest := server.Ingest(context.Background())
	for i := range 1000 {
		m := megaphone.Message{Channel: "main.W1zK7pQ0gr5Fq2BmN3vX8s", StreamID: "progress", Body: i}
		if err := ingest.Write(m); err != nil {
			break // Close tells why
		}
	}
	result, err := ingest.Close()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Written, "written,", result.FailuresTotal, "failed")
}
