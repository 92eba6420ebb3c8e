package redis

import (
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
)

// Topic implements [broker.Topics].
func (b *Broker) Topic(ctx context.Context, topic string) (broker.TopicInfo, error) {
	if err := b.ready(ctx); err != nil {
		return broker.TopicInfo{}, err
	}
	infos, err := b.topicInfos([]string{topic})
	if err != nil {
		return broker.TopicInfo{}, err
	}
	return infos[0], nil
}

// topicInfos returns what there is to know of topics. Of one that does not exist it returns the name.
func (b *Broker) topicInfos(topics []string) ([]broker.TopicInfo, error) {
	infos := make([]broker.TopicInfo, len(topics))
	calls := make([]scriptCall, len(topics))
	for i, topic := range topics {
		calls[i] = b.topicCall(topic, b.keys.home(topic), true)
	}
	var others []scriptCall // to scopes that are not the home
	var places []int        // the topics of these, by index
	replies := b.runAll(b.background, topicScript, calls)
	for i, topic := range topics {
		values, err := replies[i].ToArray()
		if err != nil {
			return nil, b.failed(err, false)
		}
		infos[i].Name = topic
		if integer(values, 0) != 1 {
			continue
		}
		readTopic(&infos[i], values)
		for at := topicValues; at < len(values); at++ {
			others = append(others, b.topicCall(topic, int(integer(values, at)), false))
			places = append(places, i)
		}
	}
	if len(others) == 0 {
		return infos, nil
	}
	for i, reply := range b.runAll(b.background, topicScript, others) {
		values, err := reply.ToArray()
		if err != nil {
			return nil, b.failed(err, false)
		}
		infos[places[i]].Members += int(integer(values, 1))
		infos[places[i]].Connected += int(integer(values, 2))
	}
	return infos, nil
}

// topicValues is how many values lua/topic.lua returns before the scopes.
const topicValues = 8

func (b *Broker) topicCall(topic string, scope int, home bool) scriptCall {
	return scriptCall{[]string{b.keys.counters(scope)}, []string{b.keys.pushPrefix(scope), topic, text(one(home))}}
}

// readTopic reads what the home tells of a topic.
func readTopic(i *broker.TopicInfo, values []rueidis.RedisMessage) {
	i.Members, i.Connected = int(integer(values, 1)), int(integer(values, 2))
	i.Kept, i.KeptBytes = int(integer(values, 3)), integer(values, 4)
	i.Keep = broker.Keep{Bytes: integer(values, 5), TTL: time.Duration(integer(values, 6)) * time.Millisecond}
	if len(values) < topicValues {
		return
	}
	if end, err := values[7].ToString(); err == nil && end != "" {
		if m, err := decodeMessage(end); err == nil {
			i.Closed = m.End()
		}
	}
}

// ListTopics implements [broker.Topics]. Topics come by the scope of their home, then by name.
func (b *Broker) ListTopics(ctx context.Context, o broker.TopicListOptions) (broker.TopicPage, error) {
	if err := b.ready(ctx); err != nil {
		return broker.TopicPage{}, err
	}
	scope, after, err := b.parseTopicCursor(o.After)
	if err != nil {
		return broker.TopicPage{}, err
	}
	sizes, err := b.topicCounts(scope)
	if err != nil {
		return broker.TopicPage{}, err
	}
	page, examined := broker.TopicPage{Topics: []broker.TopicInfo{}}, 0
	for i, size := range sizes {
		for more := size > 0; more; {
			limit := min(maxListed, maxExamined-examined)
			if o.MinMembers <= 0 {
				limit = min(limit, o.Limit-len(page.Topics))
			}
			names, err := b.topicNames(scope+i, after, o.Prefix, limit)
			if err != nil {
				return broker.TopicPage{}, err
			}
			infos, err := b.topicInfos(names)
			if err != nil {
				return broker.TopicPage{}, err
			}
			for _, info := range infos {
				if info != (broker.TopicInfo{Name: info.Name}) && info.Members >= o.MinMembers {
					page.Topics = append(page.Topics, info)
				}
				after = info.Name
				if examined++; len(page.Topics) == o.Limit || examined == maxExamined {
					page.Next = strconv.Itoa(scope+i) + "." + hex.EncodeToString([]byte(after))
					return page, nil
				}
			}
			more = len(names) == limit
		}
		after = ""
	}
	return page, nil
}

// parseTopicCursor returns the scope and the topic after which a page begins.
func (b *Broker) parseTopicCursor(cursor string) (scope int, after string, err error) {
	if cursor == "" {
		return 0, "", nil
	}
	number, name, _ := strings.Cut(cursor, ".")
	scope, err = strconv.Atoi(number)
	text, hexErr := hex.DecodeString(name)
	if err != nil || hexErr != nil || scope < 0 || scope >= len(b.keys.scopes) || len(text) == 0 {
		return 0, "", broker.ErrCursor
	}
	return scope, string(text), nil
}

// topicCounts returns how many topics have their home in each scope from one on.
func (b *Broker) topicCounts(first int) ([]int64, error) {
	var commands []rueidis.Completed
	for scope := first; scope < len(b.keys.scopes); scope++ {
		commands = append(commands, b.client.B().Zcard().Key(b.keys.scopes[scope]+"L").Build())
	}
	return b.counts(commands)
}

// counts runs commands that each return a number.
func (b *Broker) counts(commands []rueidis.Completed) ([]int64, error) {
	counts := make([]int64, len(commands))
	for i, reply := range b.doAll(commands) {
		var err error
		if counts[i], err = reply.AsInt64(); err != nil {
			return nil, b.failed(err, false)
		}
	}
	return counts, nil
}

// topicNames returns topics with a prefix whose home is a scope, in order, at most so many, and those after one if it is not empty.
func (b *Broker) topicNames(scope int, after, prefix string, limit int) ([]string, error) {
	from, to := "["+prefix, "+"
	if prefix == "" {
		from = "-"
	} else if last := []byte(prefix); last[len(last)-1] < 255 {
		last[len(last)-1]++
		to = "(" + string(last)
	}
	if after != "" && after >= prefix {
		from = "(" + after
	}
	c := b.client
	names, err := b.do(b.background, c, c.B().Zrange().Key(b.keys.scopes[scope]+"L").Min(from).Max(to).Bylex().
		Limit(0, int64(limit)).Build()).AsStrSlice()
	if err != nil {
		return nil, b.failed(err, false)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, prefix) }), nil
}
