package config

import (
	"crypto/tls"
	"net"
	"regexp"
	"slices"
	"time"
)

// maxAddresses bounds how many sentinels are asked at once.
const maxAddresses = 32

// keyPrefix keeps clear of { and }, which choose the cluster's slot.
var keyPrefix = regexp.MustCompile(`^[A-Za-z0-9:._/-]{0,64}$`)

func (l *loader) redis(v value) Redis {
	o := v.object()
	defer o.done()
	r := Redis{
		Mode:         o.get("mode").choice("single", "single", "sentinel", "cluster"),
		Username:     o.get("username").string(""),
		WaitReplicas: o.get("wait_replicas").integer(0, 0, 10),
	}
	r.Addresses = redisAddresses(o.get("addresses"), r.Mode)
	r.Password, _ = o.get("password").secret("redis")
	r.KeyPrefix = o.get("key_prefix").string("cloakroom:")
	if !keyPrefix.MatchString(r.KeyPrefix) {
		o.get("key_prefix").problem("must be at most 64 letters, digits and : . _ / -")
	}
	r.Timeout = o.get("timeout").duration(2*time.Second, 100*time.Millisecond, 30*time.Second)
	r.TLS = l.redisTLS(o.get("tls").object())
	sentinel := o.get("sentinel")
	if r.Mode == "sentinel" {
		r.Sentinel = redisSentinel(sentinel.object())
	} else if sentinel.set() {
		sentinel.problem("has no effect without mode: sentinel")
	}
	for _, a := range r.Addresses {
		host, _, err := net.SplitHostPort(a)
		if err != nil || loopback(host) {
			continue
		}
		if r.TLS == nil {
			l.warn(o.get("addresses"), "is not this machine, and redis.tls is off: the network reads along")
		}
		if r.Password == "" && (r.TLS == nil || len(r.TLS.Certificates) == 0) {
			l.warn(o.get("addresses"), "is not this machine, and takes no password")
		}
		break
	}
	return r
}

func redisAddresses(v value, mode string) []string {
	if !v.require("") {
		return nil
	}
	list, ok := v.list()
	switch {
	case !ok:
	case mode == "single" && len(list) != 1:
		v.problem("must hold exactly one host:port")
	case len(list) == 0:
		v.problem("is empty")
	case len(list) > maxAddresses:
		v.problem("holds too many: at most %d", maxAddresses)
	}
	var out []string
	for _, e := range list {
		a, ok := e.hostPort(false)
		if ok && slices.Contains(out, a) {
			e.problem("is given twice")
		} else if ok {
			out = append(out, a)
		}
	}
	return out
}

func redisSentinel(o *object) Sentinel {
	defer o.done()
	s := Sentinel{Username: o.get("username").string("")}
	s.Password, _ = o.get("password").secret("redis sentinel")
	master := o.get("master")
	if master.require(": what the sentinels call the primary") {
		s.Master, _ = master.needed()
	}
	return s
}

func (l *loader) redisTLS(o *object) *tls.Config {
	defer o.done()
	enabled := o.get("enabled").boolean(false)
	ca, cert, key := o.get("ca_file"), o.get("cert_file"), o.get("key_file")
	if !enabled {
		for _, v := range []value{ca, cert, key} {
			if v.filePath() != "" {
				v.problem("has no effect without enabled: true")
			}
		}
		return nil
	}
	return l.clientTLS(ca, cert, key) // without a ServerName, each host has to show a certificate for its own
}
