// Command go prints a sealed body. KEY is the key, 32 bytes in hexadecimal.
package main

import (
	"encoding/hex"
	"fmt"
	"os"

	"github.com/go-jose/go-jose/v4"
)

func main() {
	key, err := hex.DecodeString(os.Getenv("KEY"))
	if err != nil {
		panic(err)
	}
	options := new(jose.EncrypterOptions).WithHeader("sid", "news") // the stream it is for
	sealer, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.DIRECT, Key: key, KeyID: "2026"}, options)
	if err != nil {
		panic(err)
	}
	sealed, err := sealer.Encrypt([]byte(`{"text":"grüße"}`))
	if err != nil {
		panic(err)
	}
	body, err := sealed.CompactSerialize()
	if err != nil {
		panic(err)
	}
	fmt.Println(body) // write it as a JSON string
}
