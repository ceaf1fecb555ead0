package faults

var herdRows []Row
