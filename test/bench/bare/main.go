// Command bare is what Cloakroom is measured against: the same standard library,
// and nothing of a gateway's work.
//
//	bare -listen ADDR -mode upstream            answers, as a stand-in for nginx
//	bare -listen ADDR -mode sockets             takes WebSockets and is silent
//	bare -listen ADDR -mode proxy -upstream URL a tuned httputil.ReverseProxy
//	bare -listen ADDR -mode naive ... -redis A  the same, after one GET for the cookie
//	bare -listen ADDR -mode token -redis A      the bytes of /bff/token after one GET
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	_ "net/http/pprof"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

func main() {
	listen := flag.String("listen", "", "host:port")
	mode := flag.String("mode", "", "upstream, proxy, naive or token")
	upstream := flag.String("upstream", "", "URL")
	address := flag.String("redis", "", "host:port")
	body := flag.String("body", "", "file with what mode token answers")
	cert := flag.String("cert", "", "PEM file with certificate and key: serve TLS")
	debug := flag.String("debug", "", "host:port for pprof")
	flag.Parse()
	if *debug != "" {
		go func() { log.Print(http.ListenAndServe(*debug, nil)) }()
	}

	var h http.Handler
	switch *mode {
	case "upstream":
		h = http.HandlerFunc(answer)
	case "sockets":
		h = http.HandlerFunc(socket)
	case "proxy":
		h = proxy(*upstream)
	case "naive":
		h = naive(proxy(*upstream), client(*address))
	case "token":
		b, err := os.ReadFile(*body)
		if err != nil {
			log.Fatal(err)
		}
		h = naive(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{"application/json"}
			w.Header()["Cache-Control"] = []string{"no-store"}
			_, _ = w.Write(b)
		}), client(*address))
	default:
		log.Fatalf("unknown mode %q", *mode)
	}
	s := &http.Server{Addr: *listen, Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *cert)
		if err != nil {
			log.Fatal(err)
		}
		s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
		log.Fatal(s.ListenAndServeTLS("", ""))
	}
	log.Fatal(s.ListenAndServe())
}

// answer gives as many bytes as the path's last segment says.
func answer(w http.ResponseWriter, r *http.Request) {
	n := 200
	_, _ = fmt.Sscanf(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:], "%d", &n)
	n = min(n, len(zeros))
	w.Header()["Content-Length"] = []string{fmt.Sprint(n)}
	_, _ = w.Write(zeros[:n])
}

// socket takes a WebSocket and waits for its end. The clients' key is always the
// example of RFC 6455.
func socket(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	_, _ = io.Copy(io.Discard, conn)
}

var zeros = make([]byte, 1<<20)

// proxy has the settings of Cloakroom's own way to its upstreams.
func proxy(upstream string) http.Handler {
	target, err := url.Parse(upstream)
	if err != nil {
		log.Fatal(err)
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			DialContext:         dialer.DialContext,
			MaxIdleConnsPerHost: 1024,
			IdleConnTimeout:     60 * time.Second,
			DisableCompression:  true,
		},
		BufferPool: &buffers,
		ErrorLog:   log.New(io.Discard, "", 0),
	}
}

var buffers bufferPool

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return make([]byte, 32<<10)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put((*[32 << 10]byte)(b)) }

func client(address string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: address, PoolSize: 64, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// naive asks Redis for the session of each request, and does nothing with it but
// to add a bearer.
func naive(next http.Handler, rdb *redis.Client) http.Handler {
	const key = "bench:naive" // whichever the session: all are as large
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := r.Cookie("__Host-Http-cloakroom"); err != nil {
			http.Error(w, "no session", http.StatusUnauthorized)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		token, err := rdb.Get(ctx, key).Bytes()
		if err != nil {
			http.Error(w, "no session", http.StatusUnauthorized)
			return
		}
		r.Header["Authorization"] = []string{"Bearer " + string(token[:min(len(token), 700)])}
		next.ServeHTTP(w, r)
	})
}
