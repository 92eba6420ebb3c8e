package main

func (r results) chart(ws []*work, ps []*peer) string { return "" }
