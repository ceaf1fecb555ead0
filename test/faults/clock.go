package faults

var clockRows []Row
