package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// A relay passes messages through Redis, so that several servers share paths.
type relay struct {
	commands, pushes input
	waiting          []int // the producers' sockets whose messages Redis has not confirmed yet, in the order of the messages
}

// An input is a connection to Redis, with what it has received of an incomplete reply.
type input struct {
	fd   int
	rest []byte
}

// dialRedis connects to a Unix socket.
func (s *server) dialRedis(path string) error {
	s.relay = new(relay)
	for _, in := range []*input{&s.relay.commands, &s.relay.pushes} {
		var err error
		if in.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); err != nil {
			return err
		}
		if err := unix.Connect(in.fd, &unix.SockaddrUnix{Name: path}); err != nil {
			return err
		}
		if err := s.watch(in.fd); err != nil {
			return err
		}
	}
	return nil
}

// publish passes a message on. The producer has its reply when Redis has confirmed the message.
func (r *relay) publish(producer int, path string, body []byte) error {
	r.waiting = append(r.waiting, producer)
	return write(r.commands.fd, fmt.Appendf(nil, "*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(path), path, len(body), body))
}

// subscribe asks for the messages of a path.
func (r *relay) subscribe(path string) error {
	return write(r.pushes.fd, fmt.Appendf(nil, "*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%s\r\n", len(path), path))
}

// receive reads from a connection to Redis. It says whether fd is one.
func (s *server) receive(fd int) (bool, error) {
	r := s.relay
	if r == nil {
		return false, nil
	}
	switch fd {
	case r.commands.fd:
		if err := r.commands.read(s.buffer[:]); err != nil {
			return true, err
		}
		confirmed := bytes.Count(r.commands.rest, []byte("\n")) // each reply is a line with a number
		r.commands.rest = r.commands.rest[bytes.LastIndexByte(r.commands.rest, '\n')+1:]
		for _, producer := range r.waiting[:confirmed] {
			if err := write(producer, created); err != nil {
				return true, err
			}
		}
		r.waiting = slices.Delete(r.waiting, 0, confirmed)
		return true, nil
	case r.pushes.fd:
		if err := r.pushes.read(s.buffer[:]); err != nil {
			return true, err
		}
		return true, s.deliverPushes()
	}
	return false, nil
}

func (in *input) read(buffer []byte) error {
	n, err := read(in.fd, buffer)
	if err == nil && n == 0 {
		err = errors.New("redis has closed the connection")
	}
	in.rest = append(in.rest, buffer[:max(0, n)]...)
	return err
}

// deliverPushes writes the messages that have arrived whole to their readers.
func (s *server) deliverPushes() error {
	for {
		var fields [3][]byte
		rest, ok := cutLine(s.relay.pushes.rest, nil) // *3
		for i := range fields {
			if ok {
				rest, ok = cutLine(rest, &fields[i])
			}
		}
		if !ok {
			return nil
		}
		if string(fields[0]) == "message" {
			if err := s.deliver(string(fields[1]), fields[2]); err != nil {
				return err
			}
		}
		s.relay.pushes.rest = rest
	}
}

// cutLine cuts a line of Redis' protocol off, with the string whose length the line tells. It fails if that is not there yet.
func cutLine(p []byte, field *[]byte) (rest []byte, ok bool) {
	line, rest, ok := bytes.Cut(p, []byte("\r\n"))
	if !ok || line[0] != '$' {
		return rest, ok
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || len(rest) < n+2 {
		return nil, false
	}
	*field = rest[:n]
	return rest[n+2:], true
}
