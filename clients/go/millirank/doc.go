// Package millirank is the Go client of Millirank, the sidecar that reranks within a latency budget.
//
// A call always returns an ordering of the caller's own documents, in time. When the sidecar is slow, frozen or gone,
// this client's own timer answers with the first-stage order and says why:
//
//	client, err := millirank.New("127.0.0.1:50051") // or "unix:/run/millirank/millirank.sock"
//	...
//	ranking, err := millirank.Rerank(ctx, client, query, hits, describe, millirank.Budget(50*time.Millisecond))
//
// The behaviour is the same in every language: see clients/README.md in the repository. Package milliranktest has a
// sidecar for tests.
package millirank
