package rig

import (
	"github.com/chromedp/chromedp"
)

// NewTab opens another tab of the same profile. [Chrome.Close] closes it; the
// browser runs on as long as its first tab is there.
func (c *Chrome) NewTab() *Chrome {
	c.t.Helper()
	ctx, cancel := chromedp.NewContext(c.ctx)
	c.t.Cleanup(cancel)
	tab := &Chrome{t: c.t, ctx: ctx}
	if err := chromedp.Do(ctx); err != nil {
		c.t.Fatalf("rig: another tab: %v", err)
	}
	return tab
}

// Close closes the tab, as a person does.
func (c *Chrome) Close() {
	c.t.Helper()
	if err := chromedp.Cancel(c.ctx); err != nil {
		c.t.Fatalf("rig: close the tab: %v", err)
	}
}
