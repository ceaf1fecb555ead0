package proxy

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/upstream"
	"github.com/prometheus/client_golang/prometheus"
)

// An upstream that does not answer in time counts as one that fails, over TLS, too.
func TestTimeoutsCountAgainstTheAddress(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer srv.Close()
	reg := prometheus.NewRegistry()
	roots := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	pool, err := upstream.New(upstream.Options{Targets: []*url.URL{target(srv.URL)}, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, Metrics: upstream.NewMetrics(reg)})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	f := newFront(t, Config{Target: target(srv.URL), Transport: pool, Timeout: 50 * time.Millisecond}, frontOptions{})
	send(t, f.addr, get("/x"))
	if err := f.result(t); !errors.Is(err, ErrTimeout) {
		t.Errorf("%v; want ErrTimeout", err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var failed float64
	for _, family := range families {
		if family.GetName() == "cloakroom_upstream_failures_total" {
			for _, m := range family.GetMetric() {
				failed += m.GetCounter().GetValue()
			}
		}
	}
	if failed != 1 {
		t.Errorf("%v failures; want 1", failed)
	}
}
