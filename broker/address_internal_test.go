package broker

import (
	"strings"
	"testing"
)

// BenchmarkParseSecret: what every request begins with, and the same by encoding/base64.
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
	Secret, _ := NewSecrets()
	f.Add(FormatAddress("main", Secret))
	f.Add("main.")
	f.Add("a.b.c")
	f.Add("main.AAAAAAAAAAAAAAAAAAAAA\n")
	f.Fuzz(func(t *testing.T, text string) {
		agent, s, ok := ParseAddress(text)
		if ok && FormatAddress(agent, s) != text {
			t.Errorf("%q is read as %q", text, FormatAddress(agent, s))
		}
		if before, after, _ := strings.Cut(text, "."); !ok && ValidAgent(before) && !strings.ContainsAny(after, "\r\n") {
			if decoded, err := secretText.DecodeString(after); err == nil && len(decoded) == len(s) {
				t.Errorf("%q is not read", text)
			}
		}
		if redacted := RedactAddress(text); ok && len(redacted) > len(agent)+len(".1234…") {
			t.Errorf("%q is logged as %q", text, redacted)
		}
	})
}

// A Secret has one spelling: no character can be another.
func TestASecretHasOneSpelling(t *testing.T) {
	want, _ := NewSecrets()
	address := FormatAddress("main", want)
	if _, s, ok := ParseAddress(address); !ok || s != want {
		t.Errorf("%s is read as %x, not %x", address, s, want)
	}
	for i := len("main."); i < len(address); i++ {
		for c := range 256 {
			other := address[:i] + string([]byte{byte(c)}) + address[i+1:]
			_, s, ok := ParseAddress(other)
			digit := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", byte(c))
			// The last digit has two bits of the Secret only.
			if valid := digit >= 0 && (i < len(address)-1 || digit%16 == 0); ok != valid {
				t.Errorf("%q: %v", other, ok)
			} else if ok && (s == want) != (other == address) {
				t.Errorf("%q is read as %x", other, s)
			}
		}
	}
}
