package megaphone

import (
	"crypto/rand"
	"encoding/base64"
	"strings"
)

// A secret is the unguessable half of an address: 128 random bits (protocol.md 1.1).
type secret [16]byte

// secretText writes a secret in 22 characters. It is strict, so that a secret has one spelling only.
var secretText = base64.RawURLEncoding.Strict()

// newSecrets returns two independent secrets.
func newSecrets() (a, b secret) {
	var both [2 * len(a)]byte
	_, _ = rand.Read(both[:]) // never fails, crashes instead
	return secret(both[:len(a)]), secret(both[len(a):])
}

// formatAddress writes an address as "{agent}.{secret}".
func formatAddress(agent string, s secret) string {
	text := make([]byte, 0, len(agent)+1+secretText.EncodedLen(len(s)))
	text = append(text, agent...)
	text = append(text, '.')
	return string(secretText.AppendEncode(text, s[:]))
}

// parseAddress splits an address. It reports false for text that no server of any agent could have made.
func parseAddress(address string) (agent string, s secret, ok bool) {
	agent, text, ok := strings.Cut(address, ".")
	if !ok || len(text) != secretText.EncodedLen(len(s)) || !ValidAgent(agent) {
		return "", secret{}, false
	}
	var spelled [22]byte
	copy(spelled[:], text)
	// The decoder passes over line feeds, so the number of bytes is looked at too.
	if n, err := secretText.Decode(s[:], spelled[:]); err != nil || n != len(s) {
		return "", secret{}, false
	}
	return agent, s, true
}

// ValidAgent reports whether a name can be the first part of an address: [A-Za-z0-9_-]+.
func ValidAgent(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			return false
		}
	}
	return name != ""
}

// RedactAddress returns what of an address may be logged: the agent and the first four characters of the secret.
func RedactAddress(address string) string {
	dot := strings.IndexByte(address, '.')
	if dot < 0 || len(address) < dot+5 {
		return "malformed"
	}
	return address[:dot+5] + "…"
}
