package transport

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// BenchmarkShared measures what a large message costs when it is written from where it is, and when it is copied. The
// value of minShared comes from here.
func BenchmarkShared(b *testing.B) {
	for _, network := range []string{"tcp", "unix"} {
		address := map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(b.TempDir(), "s")}[network]
		listener, err := new(net.ListenConfig).Listen(b.Context(), network, address)
		if err != nil {
			b.Fatal(err)
		}
		far, err := new(net.Dialer).DialContext(b.Context(), network, listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		near, err := listener.Accept()
		if err != nil {
			b.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, far) }()
		w := socket.NewWriter(near)
		for _, size := range []int{2 << 10, 4 << 10, 8 << 10, 16 << 10, 64 << 10} {
			lines := make([][]byte, max(1, 64<<20/size)) // more than fits into the processor's caches
			for i := range lines {
				lines[i] = line(size)
			}
			for name, add := range map[string]func(*frame, []byte){
				"shared": func(f *frame, p []byte) {
					f.append()
					f.content.shared = append(f.content.shared, shared{len(f.content.buffer), p})
				},
				"copied": func(f *frame, p []byte) { f.append(p) },
			} {
				b.Run(fmt.Sprintf("%s/%d KiB/%s", network, size>>10, name), func(b *testing.B) {
					b.ReportAllocs()
					for i := 0; b.Loop(); i++ {
						var f frame
						f.append([]byte("1000\r\n"))
						add(&f, lines[i%len(lines)])
						f.append(crlf)
						if err := f.writeTo(&w, time.Minute); err != nil {
							b.Fatal(err)
						}
						f.free()
					}
				})
			}
		}
		near.Close()
		far.Close()
		listener.Close()
	}
}
