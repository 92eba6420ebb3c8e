package redis

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

func TestPartitionsAreSpreadEvenlyOverSlots(t *testing.T) {
	seen := map[string]bool{}
	for p, tag := range tags() {
		if slot := hashSlot(tag); slot*partitions/slots != p {
			t.Errorf("partition %d has the tag %q in slot %d", p, tag, slot)
		}
		if seen[tag] || tag == "" || len(tag) > 3 {
			t.Errorf("partition %d has the tag %q", p, tag)
		}
		seen[tag] = true
	}
}

// TestTagsNeverChange: what is in Redis would not be found any more.
func TestTagsNeverChange(t *testing.T) {
	all := tags()
	if got := all[:4]; !slices.Equal(got, firstTags) {
		t.Errorf("the first tags are %q, want %q", got, firstTags)
	}
	if got := hashSlot("123456789"); got != 0x31c3 { // of the specification of Redis Cluster
		t.Errorf("the slot is %#x", got)
	}
}

func TestAddressesDecode(t *testing.T) {
	c := newCodec(deriveKey("a secret that nobody guesses"))
	x := newChannelID("")
	a := c.addresses(x, "agent")
	agent, producer, _ := broker.ParseAddress(a.Producer)
	_, consumer, _ := broker.ParseAddress(a.Consumer)
	if decode(c.producer, agent, producer) != x || decode(c.consumer, agent, consumer) != x {
		t.Error("the addresses of a channel do not decode to its id")
	}
	if c.consumerSecret(x, "agent") != consumer {
		t.Error("the secret of the consumer address is another one")
	}
	for what, other := range map[string]channelID{
		"the other kind": decode(c.consumer, agent, producer), "another agent": decode(c.producer, "other", producer),
		"another key": decode(newCodec(deriveKey("another secret, as good")).producer, agent, producer),
	} {
		if other == x {
			t.Errorf("an address decodes with %s", what)
		}
	}
	if got := newCodec(deriveKey("a secret that nobody guesses")).addresses(x, "agent"); got != a {
		t.Error("the same key makes other addresses")
	}
}

func TestChannelsOfAClientShareAPartition(t *testing.T) {
	a, b := newChannelID("192.0.2.1"), newChannelID("192.0.2.1")
	if a == b || a.partition() != b.partition() {
		t.Errorf("the ids are %v and %v", a, b)
	}
	if x, ok := parseChannelID(a.String()); !ok || x != a {
		t.Errorf("%v is read as %v", a, x)
	}
	for _, bad := range []string{"", a.String()[1:], a.String() + "0", strings.ToUpper("f" + a.String()[1:]), strings.Repeat("x", 32)} {
		if _, ok := parseChannelID(bad); ok {
			t.Errorf("%q is read as an id", bad)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, test := range []struct {
		version, least string
		want           bool
	}{
		{"7.0.15", "7.0", true},
		{"7.2.4", "7.0", true},
		{"8.0.0", "7.2", true},
		{"10.1.0", "7.2", true},
		{"7.0.15", "7.2", false},
		{"6.2.14", "7.0", false},
		{"", "7.0", false},
		{"x", "7.0", false},
	} {
		if got := atLeast(test.version, test.least); got != test.want {
			t.Errorf("%q is at least %s: %v", test.version, test.least, got)
		}
	}
}

func TestNumbersArePacked(t *testing.T) {
	p := packer{}.put(2, 0x1234).put(5, 1<<39).put(2, -1).put(2, 1<<20)
	if want := "\x34\x12\x00\x00\x00\x00\x80\x00\x00\xff\xff"; string(p) != want {
		t.Errorf("the numbers are %q, want %q", p, want)
	}
	if got := number("\x34\x12\x00\x00\x80"); got != 0x8000001234 {
		t.Errorf("the number is %#x", got)
	}
	for d, want := range map[time.Duration]int64{0: 0, time.Nanosecond: 1, time.Millisecond: 1, time.Second + 1: 1001} {
		if got := ms(d); got != want {
			t.Errorf("%v is %d ms, want %d", d, got, want)
		}
	}
}

func TestStatesOfOthersAreNotRead(t *testing.T) {
	if _, ok := parseState(strings.Repeat("x", stateSize-1)); ok {
		t.Error("a short state is read")
	}
	s := []byte(strings.Repeat("\x00", stateSize))
	s[36] = flagClient
	if _, ok := parseState(string(s)); ok {
		t.Error("a state without its client is read")
	}
	if c, ok := parseState(string(s) + "12345678agent"); !ok || c.agent != "agent" {
		t.Errorf("the state is %+v", c)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Addresses: []string{"/run/redis.sock"}, DialTimeout: time.Second, Timeout: time.Second}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Options){
		"address: name one":     func(o *Options) { o.Addresses = nil },
		"has no port":           func(o *Options) { o.Addresses = []string{"host"} },
		"has no valid port":     func(o *Options) { o.Addresses = []string{"host:65536"} },
		"exclude each other":    func(o *Options) { o.Cluster, o.SentinelMaster = true, "m" },
		"only database 0":       func(o *Options) { o.Cluster, o.Database = true, 1 },
		"use 1 or more":         func(o *Options) { o.Durability.Replicas = -1 },
		"without braces":        func(o *Options) { o.KeyPrefix = "{x}" },
		"can be guessed":        func(o *Options) { o.AddressKey = "short" },
		"durations above zero":  func(o *Options) { o.Timeout = 0 },
		"it needs a password":   func(o *Options) { o.Username = "u" },
		"write sentinel <name>": func(o *Options) { o.SentinelPassword = "p" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

var firstTags = []string{"cv", "14", "6y", "10"}

// TestNoTimeOfDayEnters: the clocks of nodes may be off, so nothing may depend on the time of day that they have. Differences of
// what time.Now returns are monotonic, unless a part of a time is taken out of it, or the monotonic part is cut off.
func TestNoTimeOfDayEnters(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if file == "drain.go" && strings.Contains(line, "Started: time.Now()") {
				continue // operators see it, and nothing else
			}
			if timeOfDay.MatchString(line) {
				t.Errorf("%s:%d uses the time of day: %s", file, i+1, line)
			}
		}
	}
}

var timeOfDay = regexp.MustCompile(`\.(Unix|UnixMilli|UnixMicro|UnixNano|Format|UTC|Local|Hour|Date)\(\)|time\.Unix\(|time\.Now\(\)\.(Round|Truncate)`)

// TestReadersAreLookedAfterAgain: at once after something has changed, and otherwise one partition at a time, so Redis never has much
// to do.
func TestReadersAreLookedAfterAgain(t *testing.T) {
	b, err := New(Options{Addresses: []string{DefaultAddress}, DialTimeout: time.Second, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if due := b.dueToReap(); len(due) != 0 {
		t.Errorf("without a heartbeat, %d partitions are due", len(due[0]))
	}
	b.nodes = []string{b.node}
	if due := b.dueToReap(); len(due[0]) != partitions {
		t.Errorf("at first, %d partitions are due", len(due[0]))
	}
	now := time.Now()
	for p := range b.reaped {
		b.reaped[p] = now
	}
	if due := b.dueToReap(); len(due) != 0 {
		t.Errorf("right after that, %d partitions are due", len(due[0]))
	}
	for p := 10; p < partitions; p++ {
		b.reaped[p] = now.Add(-reapInterval)
	}
	for p := 10; p < partitions; p++ {
		due := b.dueToReap()
		if len(due[0]) != 1 || due[0][0] != p {
			t.Fatalf("after the interval, the partitions %v are due, want %d", due[0], p)
		}
		b.reaped[p] = now
	}
	b.reaped[3], b.reapAfter = time.Time{}, time.Now().Add(time.Hour)
	if due := b.dueToReap(); len(due) != 0 {
		t.Errorf("before it is time, %d partitions are due", len(due[0]))
	}
}

func TestOneCallHasManyItemsOnlyForFewChannels(t *testing.T) {
	channels := make([]channelID, 150)
	for i := range channels {
		channels[i] = newChannelID("")
	}
	items := func(each int, xs ...channelID) (queue []*item) {
		for range each {
			for _, x := range xs {
				queue = append(queue, &item{x: x, ms: []string{"m"}, size: 1, limits: new(broker.Limits)})
			}
		}
		return queue
	}
	large := &item{x: channels[0], ms: []string{"m"}, size: maxBatchBytes}
	for what, test := range map[string]struct {
		queue []*item
		want  int
	}{
		"none":                        {nil, 0},
		"few":                         {items(1, channels[:3]...), 3},
		"many channels":               {items(1, channels...), maxBatch},
		"the same channels":           {items(3, channels[:100]...), 300},
		"then another channel":        {append(items(2, channels[:100]...), items(1, channels[100:]...)...), 200},
		"one channel":                 {items(1000, channels[0]), maxBatchItems},
		"a large one alone":           {[]*item{large, large}, 1},
		"a large one after another":   {append(items(1, channels[0]), large), 1},
		"more messages than unpacked": {[]*item{{ms: make([]string, maxItem)}, {ms: make([]string, maxItem)}, {ms: make([]string, 1)}}, 2},
	} {
		if got := nextBatch(test.queue); got != test.want {
			t.Errorf("%s: the next call has %d items, want %d", what, got, test.want)
		}
	}
}

// TestACallKnowsTheLimitsOfItsItems: there are hundreds of items for a few channels, each with limits of its own. One byte says which
// they are, and whether the next item is for the same channel.
func TestACallKnowsTheLimitsOfItsItems(t *testing.T) {
	b, err := New(Options{Addresses: []string{DefaultAddress}, DialTimeout: time.Second, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	channels := []channelID{newChannelID(""), newChannelID("")}
	var queue []*item
	for i := range 600 {
		l := &broker.Limits{Buffer: 1, Hold: time.Duration(i/2) * time.Millisecond, MaxMemory: 1}
		queue = append(queue, b.newItem(channels[i%2], []string{string(make([]byte, 30))}, l))
	}
	for len(queue) > 0 {
		batch := byChannel(queue[:nextBatch(queue)])
		queue = queue[len(batch):]
		args := b.publishCall(0, batch).args
		for i, it := range batch {
			first := int(args[2][5*i])
			follows := i+1 < len(batch) && batch[i+1].x == it.x
			if first%2 == 1 != follows {
				t.Fatalf("item %d of %d says that the next one is for the same channel: %v", i, len(batch), !follows)
			}
			if at := first / 2 * 16; number(args[3][at+4:at+9]) != uint64(ms(it.limits.Hold)) {
				t.Fatalf("item %d of %d has the limits of another one", i, len(batch))
			}
		}
	}
}
