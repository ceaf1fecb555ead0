package faults

var mixedRows []Row
