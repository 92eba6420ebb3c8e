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

// Settings are the settings of a webhook. They must not change.
type Settings struct {
	// URL is where events are posted.
	URL *url.URL
	// Signer signs requests; nil means no signature.
	Signer *standardwebhooks.Webhook
	// Timeout is how long the receiver may take to answer a request.
	Timeout time.Duration
	// GiveUp is how long a request that fails is repeated before its events are lost.
	GiveUp time.Duration
	// Queue is how many events wait for the receiver at most.
	Queue int
	// Logger returns the logger that is in force now.
	Logger func() *zap.Logger
}

// errSecret does not show the secret.
var errSecret = errors.New("it is not base64, with or without the prefix whsec_: " +
	"use for example what `openssl rand -base64 24` prints")

// NewSigner returns what signs requests by a secret: base64, with or without the prefix whsec_.
func NewSigner(secret string) (*standardwebhooks.Webhook, error) {
	signer, err := standardwebhooks.NewWebhook(secret)
	if err != nil || strings.TrimPrefix(secret, "whsec_") == "" {
		return nil, errSecret
	}
	return signer, nil
}

// ParseURL checks the URL of a webhook.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("the URL must be a whole one, such as https://backend.example.com/hook")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("there is no port %s: name one from 1 to 65535, or leave it out for that of %s", port, u.Scheme)
		}
	}
	return u, nil
}
