package webhook

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/zap"
)

// Settings are the settings of a webhook. They must not change after a [Sender] got them. All fields except Signer must be
// set.
type Settings struct {
	// URL is where events are posted.
	URL *url.URL
	// Signer signs requests; nil means no signature.
	Signer *standardwebhooks.Webhook
	// Timeout is how long the receiver may take to answer a request.
	Timeout time.Duration
	// GiveUp is how long a request that fails is repeated. After that, its events are lost.
	GiveUp time.Duration
	// Queue is how many events may wait for the receiver. More events are lost.
	Queue int
	// Logger returns the logger that is in force now. It is called on any goroutine.
	Logger func() *zap.Logger
}

// errSecret says what is wrong with a secret, without showing it.
var errSecret = errors.New("it is not valid base64, with or without the prefix whsec_: " +
	"use for example the output of `openssl rand -base64 24`")

// NewSigner returns a signer for a secret. The secret is base64, with or without the prefix whsec_. An error does not show
// the secret.
func NewSigner(secret string) (*standardwebhooks.Webhook, error) {
	signer, err := standardwebhooks.NewWebhook(secret)
	if err != nil || strings.TrimPrefix(secret, "whsec_") == "" {
		return nil, errSecret
	}
	return signer, nil
}

// ParseURL parses and checks the URL of a webhook: http or https, with a host, and with a port from 1 to 65535 if it has
// one.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("the URL is not valid: use an http or https URL with a host, " +
			"for example https://backend.example.com/hook")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("%q is not a valid port: use one from 1 to 65535, or leave it out for the port of %s",
				port, u.Scheme)
		}
	}
	return u, nil
}
