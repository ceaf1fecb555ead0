package session

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// CC: an ended entry is overwritten by an opening that was sent before.
func TestEndIsNotForgotten(t *testing.T) {
	c := newCache()
	sid := NewSID()
	sent := time.Now()
	c.bury(sid, &cached{app: "shop", ended: &EndedError{Reason: ReasonRevoked}, ttl: endAge}, time.Now())
	c.keep(sid, &cached{app: "shop", view: &view{Session: &Session{}}, stored: sent, ttl: time.Second}, sent)
	if e, _ := c.entries.GetIfPresent(sid); e.ended == nil {
		t.Error("a view replaced an end")
	}
}

func TestJSONShowsNoToken(t *testing.T) {
	var b strings.Builder
	slog.New(slog.NewJSONHandler(&b, nil)).LogAttrs(context.Background(), slog.LevelInfo, "x", slog.Any("tokens", Tokens{Access: "canary-AT"}), slog.Any("ticket", Ticket{Secret: Secret{1, 2, 3}}))
	j, _ := json.Marshal(Tokens{Refresh: "canary-RT"})
	t.Log(b.String(), string(j))
	if strings.Contains(b.String()+string(j), "canary") {
		t.Error("leak")
	}
}
