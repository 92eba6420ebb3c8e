package broker

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
)

// Addresses are the two halves of a channel (protocol.md 1.1). Both are secrets.
type Addresses struct {
	Producer, Consumer string
}

// A Secret is the unguessable half of an address: 128 bits (protocol.md 1.1).
type Secret [16]byte

// secretText writes a secret in 22 characters. It is strict, so a secret has only one spelling.
var secretText = base64.RawURLEncoding.Strict()

// NewSecrets returns two independent random secrets.
func NewSecrets() (a, b Secret) {
	var both [2 * len(a)]byte
	_, _ = rand.Read(both[:]) // never fails, crashes instead
	return Secret(both[:len(a)]), Secret(both[len(a):])
}

// FormatAddress writes an address as "{agent}.{secret}".
func FormatAddress(agent string, s Secret) string {
	text := make([]byte, 0, len(agent)+1+secretText.EncodedLen(len(s)))
	text = append(text, agent...)
	text = append(text, '.')
	return string(secretText.AppendEncode(text, s[:]))
}

// ParseAddress splits an address. It reports false for text that no server of any agent could have made.
func ParseAddress(address string) (agent string, s Secret, ok bool) {
	agent, text, ok := strings.Cut(address, ".")
	if !ok || len(text) != secretText.EncodedLen(len(s)) || !ValidAgent(agent) {
		return "", Secret{}, false
	}
	s, ok = parseSecret(text)
	return agent, s, ok
}

// digits has the value of each character of [secretText], and invalid for all others. The name of an agent may have the
// same characters.
var digits = func() (values [256]byte) {
	for i := range values {
		values[i] = invalid
	}
	for i, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		values[c] = byte(i)
	}
	return values
}()

const invalid = 0xff

// parseSecret decodes text that [secretText] has encoded. The text must have the length of a secret. Every request begins
// here, so this is faster than encoding/base64 (BenchmarkParseSecret). FuzzAddress checks that the two agree.
func parseSecret(text string) (s Secret, ok bool) {
	var all byte // the bits that any digit has
	dst := s[:]
	for len(text) >= 4 && len(dst) >= 3 {
		a, b, c, d := digits[text[0]], digits[text[1]], digits[text[2]], digits[text[3]]
		all |= a | b | c | d
		dst[0], dst[1], dst[2] = a<<2|b>>4, b<<4|c>>2, c<<6|d
		text, dst = text[4:], dst[3:]
	}
	a, b := digits[text[0]], digits[text[1]]
	dst[0] = a<<2 | b>>4
	return s, (all|a|b) < 64 && b&0xf == 0
}

// ValidAgent reports whether a name can be the first part of an address: [A-Za-z0-9_-]+.
func ValidAgent(name string) bool {
	for i := range len(name) {
		if digits[name[i]] == invalid {
			return false
		}
	}
	return name != ""
}

// CheckAgent says what is wrong with a name that cannot be the first part of an address.
func CheckAgent(name string) error {
	if !ValidAgent(name) {
		return fmt.Errorf("%q is not a valid agent name: use letters, digits, _ and - only", name)
	}
	return nil
}

// RedactAddress returns what may be logged of an address: the agent and the first four characters of the secret.
func RedactAddress(address string) string {
	dot := strings.IndexByte(address, '.')
	if dot < 0 || len(address) < dot+5 {
		return "malformed"
	}
	return address[:dot+5] + "…"
}
