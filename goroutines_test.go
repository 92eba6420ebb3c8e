package megaphone_test

import (
	"bytes"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-megaphone/megaphone"
)

// modulePath is the import path of this module.
var modulePath = reflect.TypeFor[megaphone.App]().PkgPath()

// testBinary is the program that runs the tests. It contains the names of all its functions.
var testBinary = sync.OnceValues(func() ([]byte, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// foundFunctions has the names that are in testBinary. The search takes a while, and tests repeat it until a condition holds.
var foundFunctions sync.Map

// running returns how often a function is on the stacks of all goroutines. The name is what follows the module's path in
// the full name, such as "/internal/delivery.(*Delivery).run". A name that ends with a period stands for all methods of a
// type. The test fails if there is no such function, because then it would check nothing.
func running(t testing.TB, name string) int {
	t.Helper()
	full := modulePath + name
	if _, found := foundFunctions.Load(full); !found {
		binary, err := testBinary()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(binary, []byte(full)) {
			t.Fatalf("there is no function %s", full)
		}
		foundFunctions.Store(full, true)
	}
	if !strings.HasSuffix(full, ".") {
		full += "("
	}
	return strings.Count(goroutines(), full)
}

// goroutines returns the stacks of all goroutines.
func goroutines() string {
	for size := 1 << 18; ; size *= 2 {
		stacks := make([]byte, size)
		if n := runtime.Stack(stacks, true); n < size {
			return string(stacks[:n])
		}
	}
}
