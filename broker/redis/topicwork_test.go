package redis_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// TestMuchToTellHomesDelaysNoHeartbeat: homes of topics are to be told a lot. Other nodes must not take the node that tells it for gone.
func TestMuchToTellHomesDelaysNoHeartbeat(t *testing.T) {
	t.Parallel()
	b, c := openCluster(t)
	_, record, _ := redis.TopicKeys(b, elsewhere(t, b, "news").Producer, "news")
	list := strings.TrimSuffix(record, "Tnews") + "y"
	fill := c.B().Eval().Script("for i = 1, 600000 do redis.call('RPUSH', KEYS[1], '\\1' .. '12345678' .. i % 1000) end return 0").
		Numkeys(1).Key(list).Build()
	if err := c.Do(t.Context(), fill).Error(); err != nil {
		t.Fatal(err)
	}
	watchHeartbeats(t, c, redis.NodesKey(b), 8*time.Second, 5*time.Second) // or else there is none until all is told
	if err := c.Do(t.Context(), c.B().Del().Key(list).Build()).Error(); err != nil {
		t.Fatal(err)
	}
}

// TestAServerThatIsDownHoldsUpNoOtherHomes: homes of topics are told again. A server that cannot be reached has some of them, and some
// of the members.
func TestAServerThatIsDownHoldsUpNoOtherHomes(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 0)
	b := open(t, redis.Options{
		Addresses: c.addresses, Cluster: true, KeyPrefix: "test:", DialTimeout: time.Second, Timeout: time.Second,
	})
	isUp := func(key string) bool {
		var slot int
		_, _ = fmt.Sscan(c.cli(0, "CLUSTER", "KEYSLOT", key), &slot)
		return slot < (primaries-1)*16384/primaries
	}
	var topics, homes []string
	for i := 0; len(topics) < 3; i++ {
		topic := fmt.Sprint("news", i)
		a := members(t, b, topic, 1)[0]
		home, record, _ := redis.TopicKeys(b, a.Producer, topic)
		if strings.TrimSuffix(home, "H"+topic) != strings.TrimSuffix(record, "T"+topic) && isUp(home) && isUp(record) {
			topics, homes = append(topics, topic), append(homes, home)
		}
	}
	c.servers[primaries-1].stop()
	for _, home := range homes {
		for i := range primaries - 1 {
			c.cli(i, "DEL", home)
		}
	}
	if err := redis.TellAgain(b); err == nil {
		t.Error("nothing fails")
	}
	for _, topic := range topics {
		publishes(t, b, topic, topicMessage(t, "1", ""), broker.Published{Members: 1, Accepted: 1})
	}
}

// TestHomesAreToldAgainInSeveralRounds: if it takes too long, it goes on where it has stopped.
func TestHomesAreToldAgainInSeveralRounds(t *testing.T) {
	t.Parallel()
	b, c := openCluster(t)
	a := elsewhere(t, b, "news")
	home, record, _ := redis.TopicKeys(b, a.Producer, "news")
	fill := c.B().Eval().Script("for i = 1, 2000 do redis.call('SADD', KEYS[1], i) end return 0").
		Numkeys(1).Key(strings.TrimSuffix(record, "Tnews") + "N").Build()
	if err := c.Do(t.Context(), fill).Error(); err != nil {
		t.Fatal(err)
	}
	deleteKey(t, c, home)
	rounds, err := redis.TellAgainInRounds(b)
	if err != nil || rounds < 10 || rounds > 100 {
		t.Errorf("it takes %d rounds, %v", rounds, err)
	}
	publishes(t, b, "news", topicMessage(t, "1", ""), broker.Published{Members: 1, Accepted: 1})
}
