package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"
)

// ending is how long searches under way may take once the service is told to end.
const ending = 5 * time.Second

// found is the answer to GET /search?q=...
type found struct {
	Results []result `json:"results"`
	// Outcome says how much of the reranking is in the order, Took what it cost.
	Outcome string  `json:"outcome"`
	TookMS  float64 `json:"took_ms"`
	// Strategy and Reason are the router's; empty where no sidecar has answered.
	Strategy string `json:"strategy,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

type result struct {
	ID string `json:"id"`
	// Was is the place that the first stage gave it, from 1.
	Was int `json:"was"`
}

// handler answers GET /search?q=... and, for probes, GET /healthz. It is healthy whatever becomes of the sidecar: without
// one it answers in the first stage's order.
func handler(service *Service) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /search", func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query().Get("q")
		if query == "" {
			http.Error(w, "no query; ask for /search?q=...", http.StatusBadRequest)
			return
		}
		answer, err := service.Search(r.Context(), query)
		if err != nil {
			http.Error(w, "search failed", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(describeAnswer(answer))
	})
	return mux
}

func describeAnswer(answer *Answer) found {
	ranking := answer.Ranking
	described := found{
		Results: make([]result, 0, len(ranking.Results)),
		Outcome: string(ranking.Outcome),
		TookMS:  float64(ranking.Elapsed.Microseconds()) / 1e3,
	}
	for _, each := range ranking.Results {
		described.Results = append(described.Results, result{ID: each.Document.ID, Was: each.Index + 1})
	}
	if decision := ranking.Decision; decision != nil {
		described.Strategy, described.Reason = string(decision.Strategy), string(decision.Reason)
	}
	return described
}

// serve answers on the listener until ctx ends, and then what is under way.
func serve(ctx context.Context, listener net.Listener, service *Service) error {
	server := &http.Server{Handler: handler(service), ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), ending)
		defer cancel()
		ended <- server.Shutdown(late)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}
