package admin

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"path/filepath"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A Backup is a copy that was made of what a Broker keeps.
type Backup struct {
	// Path is the folder of the copy, on the server's machine.
	Path string `json:"path"`
	// Bytes is the size of its files.
	Bytes int64 `json:"bytes"`
}

// MaxBackup is how long a backup takes at most.
const MaxBackup = time.Hour

// backup makes a copy. It goes on if the client does not wait: Caddy's admin endpoint has a time limit for reading, which ends
// the context of a request that takes longer, whether the client is there or not.
func backup(v View, r *http.Request) (int, any, error) {
	var body struct {
		Path string `json:"path"`
	}
	if err := parseBody(r, &body); err != nil {
		return 0, nil, err
	}
	if !filepath.IsAbs(body.Path) {
		return 0, nil, newError(http.StatusBadRequest, "path: give the absolute path of a folder that does not exist yet, such as /backup/megaphone-1")
	}
	b, ok := v.Broker.(broker.Backuper)
	if !ok {
		return 0, nil, newError(http.StatusNotImplemented, "the configured broker keeps nothing on this machine's disk")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), MaxBackup)
	defer cancel()
	path := filepath.Clean(body.Path)
	size, err := b.Backup(ctx, path)
	switch {
	case errors.Is(err, broker.ErrBackupExists):
		return 0, nil, newError(http.StatusConflict, err.Error())
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return 0, nil, newError(http.StatusBadRequest, err.Error())
	case errors.Is(err, broker.ErrStarting), errors.Is(err, broker.ErrClosed):
		return 0, nil, err
	case err != nil:
		return 0, nil, newError(http.StatusInternalServerError, err.Error())
	}
	return http.StatusOK, Backup{path, size}, nil
}
