package storetest

import (
	"context"
	"testing"
	"time"
)

func TestSentinelReplacesAKilledPrimary(t *testing.T) {
	t.Parallel()
	start := time.Now()
	g := Sentinel(t)
	t.Logf("up after %v", time.Since(start))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	old, err := g.Primary(ctx)
	if err != nil || old != g.Nodes[0] {
		t.Fatal(old, err)
	}
	if _, err := old.CLI("SET", "coat", "hook 7"); err != nil {
		t.Fatal(err)
	}
	if _, err := old.CLI("WAIT", "2", "1000"); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	old.Kill()
	if err := eventually(ctx, func() error { _, err := g.Primary(ctx); return err }); err != nil {
		t.Fatal(err)
	}
	t.Logf("replaced after %v", time.Since(start))
	now, err := g.Primary(ctx)
	if err != nil || now == old {
		t.Fatal(err)
	}
	if got, err := now.CLI("GET", "coat"); err != nil || got != "hook 7" {
		t.Fatal(got, err)
	}
}

func TestClusterMovesSlotsAndReplacesAKilledMaster(t *testing.T) {
	t.Parallel()
	start := time.Now()
	c := Cluster(t)
	t.Logf("up after %v", time.Since(start))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	slot, err := c.Slot(ctx, "coat")
	if err != nil {
		t.Fatal(err)
	}
	master, err := c.Master(ctx, slot)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := master.CLI("SET", "coat", "hook 7"); err != nil {
		t.Fatal(err)
	}
	var other *Node
	for _, n := range c.Nodes[:3] {
		if n != master {
			other = n
		}
	}
	if err := c.MigrateSlots(ctx, master, other, slot); err != nil {
		t.Fatal(err)
	}
	if got, err := other.CLI("GET", "coat"); err != nil || got != "hook 7" {
		t.Fatal(got, err)
	}
	if err := c.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := other.CLI("WAIT", "1", "1000"); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	other.Kill()
	if err := c.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("replaced after %v", time.Since(start))
	now, err := c.Master(ctx, slot)
	if err != nil || now == other {
		t.Fatal(err)
	}
	if got, err := now.CLI("GET", "coat"); err != nil || got != "hook 7" {
		t.Fatal(got, err)
	}
}
