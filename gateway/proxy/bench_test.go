package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

// benchRequest is what a browser's fetch sends.
const benchRequest = "GET /api/orders/17?page=2 HTTP/1.1\r\nHost: app.test\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\n" +
	"Accept-Language: en\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nReferer: https://app.test/\r\n" +
	"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nCookie: theme=dark\r\n\r\n"

// bare is what ours is measured by: httputil.ReverseProxy over a tuned
// http.Transport.
func bare(to *url.URL) (http.Handler, func()) {
	tr := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.SetXForwarded()
			r.Out.Header.Set("Authorization", "Bearer ATcanary")
		},
		Transport: tr, FlushInterval: -1, BufferPool: &buffers, ErrorLog: log.New(io.Discard, "", 0),
	}, tr.CloseIdleConnections
}

func through(b *testing.B, to *url.URL, transport http.RoundTripper) http.Handler {
	p, err := New(Config{Target: to, OwnCookies: owned, Transport: transport})
	if err != nil {
		b.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, err := CanonicalPath(r.RequestURI)
		if err == nil {
			err = p.Forward(w, r, Call{Path: path, Bearer: "ATcanary"})
		}
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
}

// BenchmarkProxy forwards over loopback sockets, client and upstream included,
// which are as cheap as can be. For the gain, with the rounds interleaved:
//
//	go test -run '^$' -bench Proxy -count 6 ./gateway/proxy
func BenchmarkProxy(b *testing.B) {
	for _, size := range []int{200, 10 << 10, 1 << 20} {
		answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sun, 22 Nov 2026 02:00:00 GMT\r\nCache-Control: no-cache\r\nContent-Length: " +
			strconv.Itoa(size) + "\r\n\r\n" + strings.Repeat("x", size))
		u := serveRaw(b, func(_ *rawUpstream, _ string, c net.Conn, _ *bufio.Reader) bool {
			_, err := c.Write(answer)
			return err == nil
		})
		u.forget = true
		to := target("http://" + u.addr)
		for _, parallel := range []int{1, 64} {
			for _, way := range []string{"ours", "relayed", "bare"} {
				b.Run(fmt.Sprintf("%s/size=%d/conns=%d", way, size, parallel), func(b *testing.B) {
					var h http.Handler
					switch way {
					case "ours":
						pool, err := upstream.New(upstream.Options{Targets: []*url.URL{to}})
						if err != nil {
							b.Fatal(err)
						}
						defer pool.Close()
						h = through(b, to, pool)
					case "relayed":
						h = through(b, to, newTransport(b, nil))
					case "bare":
						var done func()
						h, done = bare(to)
						defer done()
					}
					srv := httptest.NewServer(h)
					defer srv.Close()
					b.ReportAllocs()
					b.SetBytes(int64(size))
					load(b, srv.Listener.Addr().String(), parallel, size)
				})
			}
		}
	}
}

// BenchmarkProxyTLS is the same with a client over TLS, whose bytes no kernel
// copies, and net/http's client at both of its versions.
func BenchmarkProxyTLS(b *testing.B) {
	for _, size := range []int{200, 10 << 10, 1 << 20} {
		answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n" + strings.Repeat("x", size))
		u := serveRaw(b, func(_ *rawUpstream, _ string, c net.Conn, _ *bufio.Reader) bool {
			_, err := c.Write(answer)
			return err == nil
		})
		u.forget = true
		to := target("http://" + u.addr)
		for version := 1; version <= 2; version++ {
			b.Run(fmt.Sprintf("HTTP%d/size=%d", version, size), func(b *testing.B) {
				pool, err := upstream.New(upstream.Options{Targets: []*url.URL{to}})
				if err != nil {
					b.Fatal(err)
				}
				defer pool.Close()
				h := through(b, to, pool)
				srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(copying{w}, r) }))
				srv.EnableHTTP2 = version == 2
				srv.StartTLS()
				defer srv.Close()
				client, buf := srv.Client(), make([]byte, 64<<10)
				b.ReportAllocs()
				b.SetBytes(int64(size))
				cpu := cpuTime()
				for b.Loop() {
					res, err := client.Get(srv.URL + "/api/orders/17")
					if err != nil {
						b.Fatal(err)
					}
					if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, buf); n != int64(size) || err != nil {
						b.Fatal(n, err)
					}
					res.Body.Close()
				}
				b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// BenchmarkProxyFromTLS is the same with an upstream over TLS, which net/http's
// client speaks to.
func BenchmarkProxyFromTLS(b *testing.B) {
	for _, size := range []int{200, 10 << 10, 1 << 20} {
		for _, protocol := range []string{"http1", "h2"} {
			b.Run(fmt.Sprintf("%s/size=%d", protocol, size), func(b *testing.B) {
				answer := []byte(strings.Repeat("x", size))
				srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header()["Content-Length"] = []string{strconv.Itoa(size)}
					w.Write(answer)
				}))
				srv.EnableHTTP2 = true
				srv.StartTLS()
				defer srv.Close()
				o := upstream.Options{Targets: []*url.URL{target(srv.URL)}, TLS: &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, MinVersion: tls.VersionTLS12}}
				if protocol == "http1" {
					o.Protocol = protocol
				}
				pool, err := upstream.New(o)
				if err != nil {
					b.Fatal(err)
				}
				defer pool.Close()
				front := httptest.NewServer(through(b, o.Targets[0], pool))
				defer front.Close()
				b.ReportAllocs()
				b.SetBytes(int64(size))
				load(b, front.Listener.Addr().String(), 16, size)
			})
		}
	}
}

// load sends b.N requests over a number of connections.
func load(b *testing.B, addr string, parallel, size int) {
	var left atomic.Int64
	failed := make(chan error, parallel)
	begin := make(chan struct{})
	request := []byte(benchRequest)
	for range parallel {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		go func() {
			br := bufio.NewReaderSize(c, 64<<10)
			one := func() error {
				if _, err := c.Write(request); err != nil {
					return err
				}
				for {
					line, err := br.ReadSlice('\n')
					if err != nil {
						return err
					}
					if len(line) == 2 {
						break
					}
				}
				_, err := br.Discard(size)
				return err
			}
			err := one() // opens the connection to the upstream
			failed <- err
			<-begin
			for err == nil && left.Add(-1) >= 0 {
				err = one()
			}
			failed <- err
		}()
	}
	for range parallel {
		if err := <-failed; err != nil {
			b.Fatal(err)
		}
	}
	left.Store(int64(b.N))
	cpu := cpuTime()
	b.ResetTimer()
	close(begin)
	for range parallel {
		if err := <-failed; err != nil {
			b.Error(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N), "cpu-ns/op")
}

// cpuTime is what the process has used: beside others, it says more than the
// time that went by.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
