package millirank

// Document is what the sidecar gets to see of one candidate.
type Document struct {
	// ID is the caller's own, at most 512 characters; it may be empty and need not be unique.
	ID string
	// Text is what is scored; it may be empty only where Index is given.
	Text string
	// Signals are first-stage scores by name (bm25, dense, ...), higher is better, finite; at most 16.
	Signals map[string]float64
	// Index says where the document lies in an index that `millirank index` has built; nil: nowhere.
	Index *IndexedRef
}

// IndexedRef names a document in an index of token vectors. Neither part may be empty.
type IndexedRef struct {
	Collection string
	ID         string
}
