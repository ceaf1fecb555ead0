package strictjson_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, text string
		ok         bool
	}{
		{"empty object", `{}`, true},
		{"white space around", " {\"a\":1}\n", true},
		{"names that differ in case", `{"sub":"a","Sub":"b"}`, true},
		{"a name twice", `{"sub":"a","sub":"b"}`, false},
		{"a name twice, one escaped", `{"sub":"a","\u0073ub":"b"}`, false},
		{"twice inside a value", `{"a":{"b":1,"b":2}}`, true},
		{"nothing", ``, false},
		{"null", `null`, false},
		{"array", `[{}]`, false},
		{"string", `"{}"`, false},
		{"two objects", `{}{}`, false},
		{"more behind it", `{} x`, false},
		{"cut", `{"a":1`, false},
		{"comma", `{"a":1,}`, false},
		{"no quotes", `{a:1}`, false},
		{"not UTF-8", "{\"sub\":\"\xff\"}", false},
		{"byte order mark", "\ufeff{}", false},
		{"deep", strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if _, err := strictjson.Parse([]byte(test.text)); (err == nil) != test.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	o, err := strictjson.Parse([]byte(`{"null":null,"text":"a\u0062","number":7,"fraction":1.9,"late":1e18,"minus":-1,"zero":0,
		"texts":["a","b"],"mixed":["a",1],"holes":["a",null],"none":[],"digits":"90","words":"90s","true":true,"object":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"text": "ab", "null": "", "gone": ""} {
		if s, ok := o.String(name); s != want || !ok {
			t.Errorf("String(%s) = %q, %t", name, s, ok)
		}
	}
	for _, name := range []string{"number", "true", "object", "texts"} {
		if s, ok := o.String(name); s != "" || ok {
			t.Errorf("String(%s) = %q, %t", name, s, ok)
		}
	}
	for name, want := range map[string]int{"texts": 2, "none": 0, "null": 0, "gone": 0} {
		if s, ok := o.Strings(name); len(s) != want || !ok {
			t.Errorf("Strings(%s) = %q, %t", name, s, ok)
		}
	}
	for _, name := range []string{"mixed", "holes", "text", "object"} {
		if s, ok := o.Strings(name); s != nil || ok {
			t.Errorf("Strings(%s) = %q, %t", name, s, ok)
		}
	}
	for name, want := range map[string]int64{"number": 7, "fraction": 1} {
		if d, ok := o.NumericDate(name); d.Unix() != want || !ok {
			t.Errorf("NumericDate(%s) = %v, %t", name, d, ok)
		}
	}
	for name, want := range map[string]bool{"gone": true, "null": true, "zero": true, "minus": false, "late": false, "digits": false, "true": false} {
		if d, ok := o.NumericDate(name); !d.IsZero() || ok != want {
			t.Errorf("NumericDate(%s) = %v, %t", name, d, ok)
		}
	}
	const limit = time.Minute
	for name, want := range map[string]time.Duration{
		"number": 7 * time.Second, "fraction": 1900 * time.Millisecond, "digits": limit, "late": limit,
		"words": 0, "minus": 0, "zero": 0, "gone": 0, "null": 0, "text": 0, "object": 0,
	} {
		if d := o.Seconds(name, limit); d != want {
			t.Errorf("Seconds(%s) = %v, want %v", name, d, want)
		}
	}
	if o.Has("null") || o.Has("gone") || !o.Has("zero") {
		t.Error("Has takes null for a value, or zero for none")
	}
}

// What is accepted reads the same to encoding/json, and is the same object when
// it is written out and read again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"iss":"a","aud":["b"],"exp":1,"n":null}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Add([]byte("{\"a\":\"\\ud800\"}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := strictjson.Parse(data)
		if err != nil {
			return
		}
		var theirs map[string]json.RawMessage
		if err := json.Unmarshal(data, &theirs); err != nil || len(theirs) != len(o) {
			t.Fatalf("encoding/json: %v, %d names, not %d", err, len(theirs), len(o))
		}
		for name := range o {
			if s, ok := o.String(name); ok && o.Has(name) {
				var is string
				if json.Unmarshal(theirs[name], &is) != nil || is != s {
					t.Errorf("%q is %q, not %q", name, is, s)
				}
			}
		}
		written, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := strictjson.Parse(written); err != nil || len(again) != len(o) {
			t.Errorf("written out and read again: %v, %d names, not %d", err, len(again), len(o))
		}
	})
}
