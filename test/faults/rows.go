package faults

import (
	"fmt"
	"slices"
	"strings"
)

// Rows are all rows, in the order in which they run.
func Rows() []Row {
	return slices.Concat(processRows, providerRows, edgeRows, killRows, redisRows, freezeRows, splitRows, scarceRows, clockRows, herdRows, mixedRows, judgeRows)
}

// Named picks rows by their ids, "F1,F3"; "" is all of them.
func Named(ids string) ([]Row, error) {
	all := Rows()
	if ids == "" {
		return all, nil
	}
	var found []Row
	for id := range strings.SplitSeq(ids, ",") {
		i := slices.IndexFunc(all, func(r Row) bool { return strings.EqualFold(r.ID, strings.TrimSpace(id)) })
		if i < 0 {
			return nil, fmt.Errorf("there is no row %q", id)
		}
		found = append(found, all[i])
	}
	return found, nil
}
