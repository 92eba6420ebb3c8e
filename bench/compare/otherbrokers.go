package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"github.com/caddy-megaphone/megaphone/bench/load"
)

func mercurePost(topics []string, body string) load.Request {
	form := url.Values{"topic": topics, "data": {body}}
	return load.Post("/.well-known/mercure", strings.ReplaceAll(form.Encode(), "%7E", "~"),
		"Content-Type: application/x-www-form-urlencoded", "Authorization: Bearer "+mercureToken)
}

func mercureTopics(_ string, n int) ([]channel, error) {
	cs := make([]channel, n)
	for i := range cs {
		topic := fmt.Sprintf("https://example.com/channels/%d", i)
		cs[i] = channel{
			address: topic,
			path:    "/.well-known/mercure?topic=" + url.QueryEscape(topic),
			post:    func(body string) load.Request { return mercurePost([]string{topic}, body) },
		}
	}
	return cs, nil
}

func mercureBatch(cs []channel, body string) load.Request {
	topics := make([]string, len(cs))
	for i, c := range cs {
		topics[i] = c.address
	}
	return mercurePost(topics, body)
}

const nchanModule = "/usr/lib/nginx/modules/ngx_nchan_module.so"

func findNginx(context.Context, string) (string, error) {
	if _, err := os.Stat(nchanModule); err != nil {
		return "", fmt.Errorf("%w: on Debian, apt-get install nginx-light libnginx-mod-nchan", errMissing)
	}
	binary, err := exec.LookPath("nginx")
	if err != nil {
		return "", errMissing
	}
	return binary, nil
}

// nginxConfig returns a configuration that runs nginx as one process. So the CPU time and memory of the started process
// are those of nginx.
func nginxConfig(address string, _ settings) string {
	return `load_module ` + nchanModule + `;
daemon off;
master_process off;
pid nginx.pid;
error_log stderr error;
worker_rlimit_nofile 16384;
events {
	worker_connections 16384;
}
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	keepalive_requests 1000000000;
	server {
		listen ` + address + `;
		location ~ ^/pub/(.+)$ {
			nchan_publisher;
			nchan_channel_id $1;
			nchan_channel_id_split_delimiter ",";
			nchan_message_buffer_length 100;
		}
		location ~ ^/sub/(.+)$ {
			nchan_subscriber websocket eventsource http-chunked;
			nchan_channel_id $1;
		}
	}
}
`
}

func nchanChannels(_ string, n int) ([]channel, error) {
	cs := make([]channel, n)
	for i := range cs {
		id := fmt.Sprint(i)
		cs[i] = channel{
			address: id,
			path:    "/sub/" + id,
			post:    func(body string) load.Request { return load.Post("/pub/"+id, body, jsonType) },
		}
	}
	return cs, nil
}

func nchanBatch(cs []channel, body string) load.Request {
	ids := make([]string, len(cs))
	for i, c := range cs {
		ids[i] = c.address
	}
	return load.Post("/pub/"+strings.Join(ids, ","), body, jsonType)
}
