package session

import (
	"testing"
	"time"
)

func TestPulse(t *testing.T) {
	const s = time.Second
	for name, row := range map[string]struct {
		ticks  []time.Duration
		now    time.Duration
		steady bool
	}{
		"nothing ticks":                      {nil, 100 * s, true},
		"just begun":                         {[]time.Duration{1}, s, true},
		"running":                            {[]time.Duration{s, 2 * s, 3 * s}, 4 * s, true},
		"woken, and not ticked yet":          {[]time.Duration{s, 2 * s}, 32 * s, false},
		"woken, and ticked":                  {[]time.Duration{s, 2 * s, 32 * s}, 32*s + s/4, false},
		"the backlog is being read":          {[]time.Duration{s, 32 * s, 33 * s, 34 * s, 35 * s, 36 * s, 37 * s, 38 * s, 39 * s, 40 * s, 41 * s}, 41 * s, false},
		"the backlog has been read":          {[]time.Duration{s, 32 * s, 34 * s, 36 * s, 38 * s, 40 * s, 42 * s}, 43 * s, true},
		"a break that a verdict may be late": {[]time.Duration{s, 3 * s}, 4 * s, true},
	} {
		t.Run(name, func(t *testing.T) {
			var p pulse
			for _, at := range row.ticks {
				p.tick(at)
			}
			if p.steady(row.now) != row.steady {
				t.Errorf("steady: %v", !row.steady)
			}
		})
	}
}
