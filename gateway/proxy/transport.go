package proxy

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// TransportOptions are the optional parts of a transport to upstreams.
type TransportOptions struct {
	// DialTimeout bounds the connection and, once more, the TLS handshake.
	// Zero means 5 s.
	DialTimeout time.Duration
	// MaxIdleConnsPerHost is how many unused connections to one upstream are
	// kept. Zero means 256.
	MaxIdleConnsPerHost int
	// TLS is for https upstreams; nil means the system's roots and TLS 1.2 or
	// newer.
	TLS *tls.Config
}

// maxResponseHeader is far above any upstream's response header that a browser
// would take, and far below net/http's 10 MiB.
const maxResponseHeader = 256 << 10

// NewTransport returns a transport to upstreams: connections are kept and, over
// https, HTTP/2 is used; bodies are left as they are coded; the environment's
// proxy settings are not looked at; redirects are not its business. Make one
// for all routes and close its idle connections when it is replaced.
func NewTransport(o TransportOptions) *http.Transport {
	if o.DialTimeout <= 0 {
		o.DialTimeout = 5 * time.Second
	}
	if o.MaxIdleConnsPerHost <= 0 {
		o.MaxIdleConnsPerHost = 256
	}
	if o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	dialer := &net.Dialer{Timeout: o.DialTimeout, KeepAlive: 30 * time.Second}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        o.TLS,
		TLSHandshakeTimeout:    o.DialTimeout,
		MaxIdleConnsPerHost:    o.MaxIdleConnsPerHost,
		IdleConnTimeout:        60 * time.Second,
		ExpectContinueTimeout:  time.Second,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true, // a TLSClientConfig of our own would turn it off
		MaxResponseHeaderBytes: maxResponseHeader,
	}
}

// buffers lends the copy buffers of all responses.
var buffers bufferPool

const bufferSize = 32 << 10

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[bufferSize]byte); ok {
		return b[:]
	}
	return make([]byte, bufferSize)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put((*[bufferSize]byte)(b)) }
