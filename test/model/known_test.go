package model

import "hash/maphash"

// known is the set of the states that were found, each with the one that it was
// found from. It is exact: states are compared, not their hashes. It takes what
// they take, and some bytes each.
type known struct {
	seed   maphash.Seed
	slots  []int32 // number of a state + 1, by its hash
	chunks [][]found
	n      int32
}

type found struct {
	state  state
	parent int32
}

const chunk = 1 << 16

func newKnown() *known { return &known{seed: maphash.MakeSeed(), slots: make([]int32, 1<<10)} }

func (k *known) state(i int32) *state { return &k.chunks[i/chunk][i%chunk].state }

func (k *known) parent(i int32) int32 { return k.chunks[i/chunk][i%chunk].parent }

// slot is where s is, or has to go.
func (k *known) slot(s *state) *int32 {
	for at := maphash.Comparable(k.seed, *s); ; at++ {
		slot := &k.slots[at&uint64(len(k.slots)-1)]
		if *slot == 0 || *k.state(*slot - 1) == *s {
			return slot
		}
	}
}

func (k *known) add(s *state, parent int32) {
	slot := k.slot(s)
	if *slot != 0 {
		return
	}
	if k.n%chunk == 0 {
		k.chunks = append(k.chunks, make([]found, 0, chunk))
	}
	last := &k.chunks[len(k.chunks)-1]
	*last = append(*last, found{*s, parent})
	k.n++
	*slot = k.n
	if int(k.n)*3 > len(k.slots)*2 {
		k.slots = make([]int32, 2*len(k.slots))
		for i := range k.n {
			*k.slot(k.state(i)) = i + 1
		}
	}
}
