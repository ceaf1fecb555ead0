package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// target is where load goes, and as whom.
type target struct {
	address string // host:port
	host    string // the Host header
	method  string
	path    string
	cookies []string // one after another; none: no cookie
	more    []string // further header lines
}

// load is what a load met with.
type load struct {
	Requests int64
	Errors   int64 // of connections, and answers other than 2xx
	Took     time.Duration
	P50, P99 time.Duration
}

// browser is what a browser sends with a script's request.
var browser = []string{
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	"Accept: application/json",
	"Accept-Language: en",
	"Accept-Encoding: gzip, deflate, br",
	"Sec-Fetch-Dest: empty",
	"Sec-Fetch-Mode: cors",
	"Sec-Fetch-Site: same-origin",
}

// requests are the bytes of each user's request.
func (t target) requests() []string {
	cookies := t.cookies
	if len(cookies) == 0 {
		cookies = []string{""}
	}
	all := make([]string, len(cookies))
	for i, c := range cookies {
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", t.method, t.path, t.host)
		for _, line := range slices.Concat(browser, t.more) {
			b.WriteString(line + "\r\n")
		}
		if c != "" {
			b.WriteString("Cookie: " + c + "\r\n")
		}
		if t.method == "POST" {
			b.WriteString("Content-Length: 0\r\n")
		}
		b.WriteString("\r\n")
		all[i] = b.String()
	}
	return all
}

// wrk runs wrk for d over n connections.
func wrk(ctx context.Context, dir string, t target, n int, d time.Duration) (load, error) {
	var lua strings.Builder
	lua.WriteString("local r = {\n")
	for _, r := range t.requests() {
		fmt.Fprintf(&lua, "%q,\n", r) // Lua reads Go's escapes of ASCII
	}
	lua.WriteString("}\nlocal i = 0\nfunction request()\n  i = i + 1\n  if i > #r then i = 1 end\n  return r[i]\nend\n")
	script := filepath.Join(dir, "wrk.lua")
	if err := os.WriteFile(script, []byte(lua.String()), 0o600); err != nil {
		return load{}, err
	}
	threads := min(n, 2)
	cmd := exec.CommandContext(ctx, "wrk", "-t", strconv.Itoa(threads), "-c", strconv.Itoa(n), "-d", fmt.Sprintf("%ds", max(1, int(d.Round(time.Second)/time.Second))),
		"--latency", "--timeout", "5s", "-s", script, "http://"+t.address+"/")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return load{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	return parseWrk(string(out))
}

var (
	wrkTotal  = regexp.MustCompile(`(\d+) requests in ([\d.]+(?:us|ms|s|m)),`)
	wrkP50    = regexp.MustCompile(`(?m)^\s+50%\s+([\d.]+(?:us|ms|s|m))`)
	wrkP99    = regexp.MustCompile(`(?m)^\s+99%\s+([\d.]+(?:us|ms|s|m))`)
	wrkErrors = regexp.MustCompile(`connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkNot2xx = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
)

func parseWrk(out string) (l load, err error) {
	total, p50, p99 := wrkTotal.FindStringSubmatch(out), wrkP50.FindStringSubmatch(out), wrkP99.FindStringSubmatch(out)
	if total == nil || p50 == nil || p99 == nil {
		return l, fmt.Errorf("wrk printed no totals: %s", out)
	}
	l.Requests, _ = strconv.ParseInt(total[1], 10, 64)
	l.Took, _ = time.ParseDuration(total[2])
	l.P50, _ = time.ParseDuration(p50[1])
	l.P99, _ = time.ParseDuration(p99[1])
	for _, m := range [][]string{wrkErrors.FindStringSubmatch(out), wrkNot2xx.FindStringSubmatch(out)} {
		for _, n := range m[min(1, len(m)):] {
			e, _ := strconv.ParseInt(n, 10, 64)
			l.Errors += e
		}
	}
	return l, nil
}

// steady sends rate requests a second over n connections for d, each at its time
// whether or not the one before it has been answered; rate 0: one after another,
// as fast as they are answered. wrk waits for an answer before it asks again, and
// so asks least where answers are slowest; here the waiting counts.
func steady(ctx context.Context, t target, n int, rate float64, d time.Duration) (load, error) {
	requests := t.requests()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		all    []time.Duration
		failed atomic.Int64
		first  atomic.Pointer[error]
	)
	begin := time.Now().Add(10 * time.Millisecond)
	end := begin.Add(d)
	for c := range n {
		wg.Go(func() {
			times, err := t.one(ctx, requests, c, n, rate, begin, end, &failed)
			if err != nil {
				failed.Add(1)
				first.CompareAndSwap(nil, &err)
			}
			mu.Lock()
			all = append(all, times...)
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(all) == 0 {
		if err := first.Load(); err != nil {
			return load{}, *err
		}
		return load{}, fmt.Errorf("no answer from %s", t.address)
	}
	slices.Sort(all)
	return load{
		Requests: int64(len(all)), Errors: failed.Load(), Took: time.Since(begin),
		P50: all[len(all)/2], P99: all[len(all)*99/100],
	}, nil
}

// one is connection number c of n.
func (t target) one(ctx context.Context, requests []string, c, n int, rate float64, begin, end time.Time, failed *atomic.Int64) ([]time.Duration, error) {
	conn, err := net.Dial("tcp", t.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(end.Add(5 * time.Second))
	in := bufio.NewReaderSize(conn, 32<<10)
	var times []time.Duration
	for i := 0; ; i++ {
		due := time.Now()
		if rate > 0 {
			due = begin.Add(time.Duration(float64(i*n+c) / rate * float64(time.Second)))
			if due.After(end) {
				return times, nil
			}
			// A client that has been waiting starts when it wakes: that it woke late
			// is not the server's doing. One that is behind has been waiting for it.
			if wait := time.Until(due); wait > 0 {
				time.Sleep(wait)
				due = time.Now()
			}
		} else if due.After(end) {
			return times, nil
		}
		if ctx.Err() != nil {
			return times, ctx.Err()
		}
		if _, err := conn.Write([]byte(requests[(i*n+c)%len(requests)])); err != nil {
			return times, err
		}
		status, err := answered(in)
		if err != nil {
			return times, err
		}
		if status/100 != 2 {
			failed.Add(1)
		}
		times = append(times, time.Since(due))
	}
}

// answered reads one answer: its Content-Length or its chunks.
func answered(in *bufio.Reader) (status int, err error) {
	length, chunked := 0, false
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		text := strings.TrimRight(string(line), "\r\n")
		switch name, value, _ := strings.Cut(text, ":"); {
		case first:
			if len(text) < 12 {
				return 0, fmt.Errorf("not a status line: %q", text)
			}
			status, _ = strconv.Atoi(text[9:12])
		case strings.EqualFold(name, "Content-Length"):
			length, _ = strconv.Atoi(strings.TrimSpace(value))
		case strings.EqualFold(name, "Transfer-Encoding"):
			chunked = true
		case text == "" && !chunked:
			_, err = in.Discard(length)
			return status, err
		case text == "":
			return status, chunks(in)
		}
	}
}

func chunks(in *bufio.Reader) error {
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(line), 16, 32)
		if err != nil {
			return err
		}
		if _, err = in.Discard(int(n) + 2); err != nil || n == 0 {
			return err
		}
	}
}
