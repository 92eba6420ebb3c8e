package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// overRedis returns Megaphone with channels in Redis.
func overRedis() *peer {
	return &peer{
		name: "redis", about: "this module with the broker redis: several servers share the channels",
		build: func(ctx context.Context, dir string) (string, error) {
			for _, program := range []string{"redis-server", "redis-benchmark"} {
				if _, err := exec.LookPath(program); err != nil {
					return "", fmt.Errorf("%w: on Debian, apt-get install redis-server redis-tools", errMissing)
				}
			}
			return goBuild("server")(ctx, dir)
		},
		args: runCaddy,
		config: func(address string, s settings) string {
			global := strings.Replace(megaphoneSettings, "megaphone {", "megaphone {\n\t\tmax_channels 100000\n\t\tbroker redis "+s.redis, 1)
			return caddyfile(address, s, global, "megaphone")
		},
		channels: createChannels, shared: true,
	}
}

// bareOverRedis returns the least that several servers cost which share a Redis.
func bareOverRedis() *peer {
	return &peer{
		name: "bare-redis", about: "the loop `bare`, with messages through Redis' Pub/Sub: the least that several servers cost",
		build: goBuild("bare"), args: func(config string) []string { return []string{config} },
		config: func(address string, s settings) string { return address + "\n" + s.redis },
		channels: func(_ string, n int) ([]channel, error) {
			cs := make([]channel, n)
			for i := range cs {
				cs[i] = bareChannel("/" + rand.Text())
			}
			return cs, nil
		},
		headers: map[string][]string{"http": nil}, shared: true, floor: true,
	}
}

// A redisServer is a redis-server on a core of its own.
type redisServer struct {
	socket string
	cmd    *exec.Cmd
}

// startRedis starts a redis-server that keeps nothing on disk.
func startRedis(ctx context.Context, dir string) (*redisServer, error) {
	r := &redisServer{socket: filepath.Join(dir, rand.Text()[:8]+".sock")}
	r.cmd = exec.CommandContext(ctx, "redis-server", "--port", "0", "--unixsocket", r.socket, "--save", "", "--dir", dir) //nolint:gosec // our own arguments
	if err := onCore(serverCore, r.cmd.Start); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(r.socket); err == nil {
			return r, nil
		}
	}
	r.stop()
	return nil, errors.New("redis-server does not answer")
}

func (r *redisServer) stop() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

// info returns a section of what Redis tells of itself.
func (r *redisServer) info(section string) (map[string]string, error) {
	conn, err := dialer.DialContext(context.Background(), "unix", r.socket)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "INFO %s\r\n", section); err != nil {
		return nil, err
	}
	replies := bufio.NewReader(conn)
	var length int
	if _, err := fmt.Fscanf(replies, "$%d\r\n", &length); err != nil {
		return nil, err
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(replies, text); err != nil {
		return nil, err
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			values[name] = value
		}
	}
	return values, nil
}

// cpu returns the CPU time that the thread has used that executes commands.
func (r *redisServer) cpu() (time.Duration, error) {
	values, err := r.info("cpu")
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, name := range []string{"used_cpu_sys_main_thread", "used_cpu_user_main_thread"} {
		used, err := time.ParseDuration(values[name] + "s")
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		sum += used
	}
	return sum, nil
}

// memory returns how many bytes Redis has allocated.
func (r *redisServer) memory() (int64, error) {
	values, err := r.info("memory")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(values["used_memory"], 10, 64)
}

// calls returns how often the nodes have called a script. Each call is a round trip.
func (r *redisServer) calls() (n int64, err error) {
	values, err := r.info("commandstats")
	for name, value := range values {
		if name == "cmdstat_eval" || name == "cmdstat_evalsha" {
			text, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
			more, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return 0, err
			}
			n += more
		}
	}
	return n, err
}

// xadd returns the CPU time that Redis takes for one XADD of a line, of 64 in each pipeline.
func (r *redisServer) xadd(ctx context.Context) (time.Duration, error) {
	const calls = 300_000
	before, err := r.cpu()
	if err != nil {
		return 0, err
	}
	benchmark := exec.CommandContext(ctx, "redis-benchmark", "-s", r.socket, "-P", "64", "-n", strconv.Itoa(calls), "-q", //nolint:gosec // our own arguments
		"XADD", "bench", "MAXLEN", "~", "1000", "*", "m", strings.Repeat("x", lineSize))
	if err := onCore(loadCore, benchmark.Start); err != nil {
		return 0, err
	}
	if err := benchmark.Wait(); err != nil {
		return 0, fmt.Errorf("redis-benchmark: %w", err)
	}
	after, err := r.cpu()
	return (after - before) / calls, err
}
