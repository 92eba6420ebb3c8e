package redis

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A channelID names a channel in Redis. It is no secret. Its first byte is the channel's partition.
type channelID [16]byte

func (x channelID) partition() int { return int(x[0]) }

// newChannelID returns a random id. The channels of one client are all in one partition, which counts them.
func newChannelID(client string) channelID {
	var x channelID
	_, _ = rand.Read(x[:]) // never fails, crashes instead
	if client != "" {
		x[0] = clientID(client)[0]
	}
	return x
}

// clientID is how Redis names a client whose channels are counted.
func clientID(client string) string {
	sum := sha256.Sum256([]byte(client))
	return string(sum[:8])
}

// String returns the id as operators see it.
func (x channelID) String() string { return hex.EncodeToString(x[:]) }

// parseChannelID reads an id as String writes it.
func parseChannelID(s string) (x channelID, ok bool) {
	if len(s) != hex.EncodedLen(len(x)) {
		return x, false
	}
	_, err := hex.Decode(x[:], []byte(s))
	return x, err == nil && x.String() == s
}

// A codec turns channel ids into the secrets of addresses, and back. So Redis needs no index of addresses. A secret is the
// encrypted id: whoever knows one address of a channel can tell neither its id nor the other address. The agent's name is
// mixed in, so an address with another agent's name is that of no channel. A secret of the wrong kind decodes to an id that
// no channel has.
type codec struct {
	key                [keySize]byte
	producer, consumer cipher.Block
}

// keySize is the size of the key of all addresses.
const keySize = 32

func newCodec(key [keySize]byte) codec {
	producer, _ := aes.NewCipher(key[:16]) // fails for other lengths only
	consumer, _ := aes.NewCipher(key[16:])
	return codec{key, producer, consumer}
}

// deriveKey makes the key of all addresses from a secret of the configuration.
func deriveKey(secret string) [keySize]byte {
	return sha256.Sum256([]byte("megaphone addresses " + secret))
}

func (c codec) addresses(x channelID, agent string) broker.Addresses {
	mix(&x, agent)
	return broker.Addresses{
		Producer: broker.FormatAddress(agent, encrypt(c.producer, x)),
		Consumer: broker.FormatAddress(agent, encrypt(c.consumer, x)),
	}
}

// consumerSecret returns the secret of a channel's consumer address.
func (c codec) consumerSecret(x channelID, agent string) broker.Secret {
	mix(&x, agent)
	return encrypt(c.consumer, x)
}

// decode returns the id that an address of one kind would have. There need not be such a channel.
func decode(block cipher.Block, agent string, s broker.Secret) channelID {
	var x channelID
	block.Decrypt(x[:], s[:])
	mix(&x, agent)
	return x
}

func encrypt(block cipher.Block, x channelID) (s broker.Secret) {
	block.Encrypt(s[:], x[:])
	return s
}

// mix combines an id with an agent's name. To do it again undoes it.
func mix(x *channelID, agent string) {
	sum := sha256.Sum256([]byte(agent))
	for i := range x {
		x[i] ^= sum[i]
	}
}
