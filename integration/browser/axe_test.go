//go:build browser

package browser

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// axe is the package of npm with the script of axe-core, and axeSum is what npm says of its content.
const (
	axe    = "axe-core@4.11.4"
	axeSum = "sha512-KunSNx+TVpkAw/6ULfhnx+HWRecjqZGTOyquAoWHYLRSdK1tB5Ihce1ZW+UY3fj33bYAFWPu7W/GRSmmrCGuxA=="
)

// axeScript is the script of axe-core. npm keeps the package in its cache.
var axeScript = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "axe")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(folder)
	cmd := exec.Command("npm", "pack", "--silent", "--prefer-offline", axe)
	cmd.Dir = folder
	name, err := cmd.Output()
	if err != nil {
		return "", err
	}
	packed, err := os.ReadFile(filepath.Join(folder, strings.TrimSpace(string(name))))
	if err != nil {
		return "", err
	}
	if sum := sha512.Sum512(packed); "sha512-"+base64.StdEncoding.EncodeToString(sum[:]) != axeSum {
		return "", errors.New(axe + " is not what it was")
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", err
	}
	for files := tar.NewReader(unzipped); ; {
		file, err := files.Next()
		if err != nil {
			return "", err
		}
		if file.Name == "package/axe.min.js" {
			script, err := io.ReadAll(files)
			return string(script), err
		}
	}
})

// findAxe returns the script of axe-core. Without npm it skips the test, or fails it if the environment has
// MEGAPHONE_REQUIRE_BROWSER.
func findAxe(tb testing.TB) string {
	tb.Helper()
	if _, err := exec.LookPath("npm"); err != nil && os.Getenv("MEGAPHONE_REQUIRE_BROWSER") == "" {
		tb.Skip("SKIPPED: npm is missing, which has axe-core")
	}
	script, err := axeScript()
	if err != nil {
		tb.Fatalf("%s: %v", axe, err)
	}
	return script
}

// wantAccessible checks a page with axe-core, which must find nothing.
func (p *page) wantAccessible(script, what string) {
	p.browser.tb.Helper()
	p.run("if (!window.axe) {" + script + "} window.axed = undefined; axe.run().then((result) => (window.axed = result.violations), (error) => (window.axed = [{id: String(error), nodes: []}]))")
	p.await("axe has checked "+what, "window.axed")
	for _, violation := range p.list("axed.map(({ id, nodes }) => id + ': ' + nodes.map(({ html, failureSummary }) => html.slice(0, 120) + ' ' + failureSummary).join('; '))") {
		p.browser.tb.Errorf("%s: %s", what, violation)
	}
}
