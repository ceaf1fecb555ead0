package rig

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Order posts to a gateway's admin API and returns the status and the body.
func (g *Gateway) Order(path string, order map[string]any) (int, string, error) {
	body, err := json.Marshal(order)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Post("http://"+g.Admin+path, "application/json", strings.NewReader(string(body)))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return resp.StatusCode, string(text), err
}

// End has the admin API end sessions, or fails the test.
func (g *Gateway) End(order map[string]any) {
	g.w.t.Helper()
	if status, body, err := g.Order("/admin/sessions/end", order); err != nil || status != http.StatusOK {
		g.w.t.Fatalf("end %v: %d %s %v", order, status, body, err)
	}
}

// Listed asks the admin API with a query, and decodes its answer into v.
func (g *Gateway) Listed(query string, v any) error {
	resp, err := client.Get("http://" + g.Admin + "/admin/sessions?" + query)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/admin/sessions: %d", resp.StatusCode)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}
