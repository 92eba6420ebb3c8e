package broker

import (
	"strings"
	"testing"
)

// BenchmarkParseSecret compares parseSecret, which every request begins with, with encoding/base64.
func BenchmarkParseSecret(b *testing.B) {
	want, _ := NewSecrets()
	text := secretText.EncodeToString(want[:])
	b.Run("megaphone", func(b *testing.B) {
		for b.Loop() {
			_, _ = parseSecret(text)
		}
	})
	b.Run("base64", func(b *testing.B) {
		var s Secret
		var spelled [22]byte
		for b.Loop() {
			copy(spelled[:], text)
			_, _ = secretText.Decode(s[:], spelled[:])
		}
	})
}

func FuzzAddress(f *testing.F) {
	secret, _ := NewSecrets()
	f.Add(FormatAddress("main", secret))
	f.Add("main.")
	f.Add("a.b.c")
	f.Add("main.AAAAAAAAAAAAAAAAAAAAA\n")
	f.Fuzz(func(t *testing.T, text string) {
		agent, s, ok := ParseAddress(text)
		if ok && FormatAddress(agent, s) != text {
			t.Errorf("%q was read as %q", text, FormatAddress(agent, s))
		}
		if before, after, _ := strings.Cut(text, "."); !ok && ValidAgent(before) && !strings.ContainsAny(after, "\r\n") {
			if decoded, err := secretText.DecodeString(after); err == nil && len(decoded) == len(s) {
				t.Errorf("%q was not read", text)
			}
		}
		if redacted := RedactAddress(text); ok && len(redacted) > len(agent)+len(".1234…") {
			t.Errorf("%q is logged as %q", text, redacted)
		}
	})
}

// TestASecretHasOneSpelling replaces each character of an address by every other: no result names the same secret.
func TestASecretHasOneSpelling(t *testing.T) {
	want, _ := NewSecrets()
	address := FormatAddress("main", want)
	if _, s, ok := ParseAddress(address); !ok || s != want {
		t.Errorf("%s was read as %x, want %x", address, s, want)
	}
	for i := len("main."); i < len(address); i++ {
		for c := range 256 {
			other := address[:i] + string([]byte{byte(c)}) + address[i+1:]
			_, s, ok := ParseAddress(other)
			digit := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", byte(c))
			// The last digit has only two bits of the secret.
			if valid := digit >= 0 && (i < len(address)-1 || digit%16 == 0); ok != valid {
				t.Errorf("%q: read: %v, want %v", other, ok, valid)
			} else if ok && (s == want) != (other == address) {
				t.Errorf("%q was read as %x", other, s)
			}
		}
	}
}
