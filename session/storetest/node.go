package storetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// startTimeout is far above what redis-server needs, since the tests of a
	// whole repository may share two cores.
	startTimeout = 20 * time.Second
	cliTimeout   = 10 * time.Second
)

// TLS names the files, in PEM, that a node shows and asks for. A node with TLS
// takes nothing else, and only from who shows a certificate of that authority.
type TLS struct{ CA, Cert, Key string }

func (f *TLS) config() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, RootCAs: pool}, nil
}

// Node is one process of Redis: a server or a sentinel. It is safe for
// concurrent use.
type Node struct {
	dir    string
	port   string
	args   []string
	config string // a sentinel's file, else empty
	files  *TLS

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd is gone
	rdb  *redis.Client
}

// needed says what is missing to run Redis.
func needed() error {
	for _, program := range []string{"redis-server", "redis-cli"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("storetest: this needs %s: run test/setup.sh, or apt-get install redis-server", program)
		}
	}
	return nil
}

// newNode makes a node with a free port and a directory of its own below dir.
func newNode(dir, name string, files *TLS, args ...string) (*Node, error) {
	n := &Node{dir: filepath.Join(dir, name), files: files, args: args}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, fmt.Errorf("storetest: no free port: %w", err)
	}
	n.port = port
	return n, nil
}

// Addr is host:port.
func (n *Node) Addr() string { return net.JoinHostPort("127.0.0.1", n.port) }

// Dir is where the node keeps its files: redis.log, and what it persists.
func (n *Node) Dir() string { return n.dir }

// Running reports whether the node's process is there, frozen or not.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Stop freezes the node (SIGSTOP): connections stay open and nothing answers.
func (n *Node) Stop() error { return n.signal(syscall.SIGSTOP) }

// Cont lets a frozen node go on (SIGCONT): it answers what has piled up.
func (n *Node) Cont() error { return n.signal(syscall.SIGCONT) }

// Kill ends the node at once (SIGKILL), frozen or not. A second call does
// nothing.
func (n *Node) Kill() {
	n.mu.Lock()
	cmd, done := n.cmd, n.done
	n.cmd = nil
	n.mu.Unlock()
	if cmd != nil {
		cmd.Process.Kill()
		<-done
	}
}

// Restart kills the node if it runs and starts it again on the same address and
// directory. What it was told to persist is there again.
func (n *Node) Restart() error {
	n.Kill()
	return n.start()
}

// close kills the node and lets go of the connections to it.
func (n *Node) close() {
	n.Kill()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rdb != nil {
		n.rdb.Close()
		n.rdb = nil
	}
}

// Do runs one command as the default user, on a connection that is kept.
func (n *Node) Do(ctx context.Context, args ...any) *redis.Cmd {
	return n.client().Do(ctx, args...)
}

func (n *Node) client() *redis.Client {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rdb == nil {
		opts := &redis.Options{
			Addr: n.Addr(), Protocol: 2, MaxRetries: -1, DialerRetries: 1, PoolSize: 4, PipelinePoolSize: -1,
			DialTimeout: time.Second, ReadTimeout: 2 * time.Second, ContextTimeoutEnabled: true, DisableIdentity: true,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		}
		if n.files != nil {
			opts.TLSConfig, _ = n.files.config() // start has read them
		}
		n.rdb = redis.NewClient(opts)
	}
	return n.rdb
}

// CLI runs redis-cli and returns its raw output without the last newline. An
// error answer is an error.
func (n *Node) CLI(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cliTimeout)
	defer cancel()
	all := []string{"-h", "127.0.0.1", "-p", n.port, "-e", "--raw"}
	if n.files != nil {
		all = append(all, "--tls", "--cacert", n.files.CA, "--cert", n.files.Cert, "--key", n.files.Key)
	}
	cmd := exec.CommandContext(ctx, "redis-cli", append(all, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("redis-cli %s: %w: %s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

func (n *Node) start() error {
	log, err := os.OpenFile(filepath.Join(n.dir, "redis.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own descriptor

	var args []string
	if n.config != "" {
		args = []string{n.config, "--sentinel"}
	}
	args = append(args, "--bind", "127.0.0.1", "--dir", n.dir, "--daemonize", "no")
	if n.files == nil {
		args = append(args, "--port", n.port)
	} else {
		if _, err := n.files.config(); err != nil {
			return err
		}
		args = append(args, "--port", "0", "--tls-port", n.port, "--tls-replication", "yes", "--tls-cluster", "yes",
			"--tls-ca-cert-file", n.files.CA, "--tls-cert-file", n.files.Cert, "--tls-key-file", n.files.Key)
	}
	if n.config == "" {
		args = append(args, "--save", "", "--appendonly", "no")
	}
	cmd := exec.Command("redis-server", append(args, n.args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start redis-server: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		cmd.Wait()
	}()
	n.mu.Lock()
	n.cmd, n.done = cmd, done
	n.mu.Unlock()

	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-done:
			n.Kill()
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("redis-server ended at start:\n%s", text)
		case <-deadline.C:
			n.Kill()
			return errors.New("redis-server does not answer")
		case <-poll.C:
			if n.answers(cmd.Process.Pid) {
				return nil
			}
		}
	}
}

// answers reports whether the node has loaded its data and is the process that
// we started, not another that holds the port.
func (n *Node) answers(pid int) bool {
	c, err := net.DialTimeout("tcp", n.Addr(), time.Second)
	if err != nil {
		return false
	}
	if n.files != nil {
		config, err := n.files.config()
		if err != nil {
			return false
		}
		config.ServerName = "127.0.0.1"
		c = tls.Client(c, config)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("INFO\r\n")); err != nil {
		return false
	}
	end := "# Replication"
	if n.config != "" {
		end = "sentinel_masters"
	}
	buf := make([]byte, 0, 16<<10)
	for len(buf) < cap(buf) && !bytes.Contains(buf, []byte(end)) {
		k, err := c.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+k]
		if err != nil {
			return false
		}
	}
	return bytes.Contains(buf, fmt.Appendf(nil, "\r\nprocess_id:%d\r\n", pid)) &&
		(n.config != "" || bytes.Contains(buf, []byte("\r\nloading:0\r\n")))
}

func (n *Node) signal(sig syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return fmt.Errorf("storetest: %v: redis-server is not running", sig)
	}
	return n.cmd.Process.Signal(sig)
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// eventually asks until there is no error any more, or ctx is done: then it
// returns the last.
func eventually(ctx context.Context, ask func() error) error {
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("storetest: gave up: %w", err)
		case <-poll.C:
		}
	}
}

// together runs f for each node at once.
func together(nodes []*Node, f func(int, *Node) error) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = f(i, n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// go-redis writes to a logger of the whole process; whatever it has to say of a
// command comes back as an error, too.
func init() { redis.SetLogger(silence{}) }

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
