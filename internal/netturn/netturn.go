// Package netturn gives the network its turn between the steps of a loop that wakes many goroutines.
//
// Go's scheduler asks the network what is new when a core has nothing else to run, or else after 10 ms (findRunnable and sysmon in
// runtime/proc.go). A loop that wakes goroutines and yields with [runtime.Gosched] can always run itself. So what others send to
// the process waits for up to 10 ms again and again, as long as the loop lasts.
package netturn

import "runtime"

// Give lets the goroutines run that this core has to run. Then the scheduler asks the network what is new, and Give returns. It returns
// earlier if another core has nothing to do, and asks. Give costs some microseconds. Any number of goroutines may call it. They go on
// one after the other, and the network has its turn before each. Where this is impossible, on Windows or without a file descriptor,
// Give is [runtime.Gosched].
func Give() {
	if !give() {
		runtime.Gosched()
	}
}
