package millirank

import (
	"maps"
	"sync"
)

// Stats is what a client has answered since it was made.
//
// Calls = Ranked + Partial + FirstStage + Raised + those still running; a rerank that returns an error (a strict one, a
// cancelled one, the caller's mistake found by the sidecar) counts as Raised.
type Stats struct {
	Calls, Ranked, Partial, FirstStage, Raised uint64
	// Fallbacks counts, by reason, the orderings that this client made itself.
	Fallbacks map[Reason]uint64
	// Late counts answers that came after their budget and were dropped, as far as they came within the slack.
	Late uint64
}

// statsRecorder keeps the counters. Safe for use by several goroutines.
type statsRecorder struct {
	mutex    sync.Mutex
	counters Stats
}

func newStatsRecorder() *statsRecorder {
	return &statsRecorder{counters: Stats{Fallbacks: map[Reason]uint64{}}}
}

func (s *statsRecorder) started() { s.count(&s.counters.Calls) }
func (s *statsRecorder) raised()  { s.count(&s.counters.Raised) }
func (s *statsRecorder) late()    { s.count(&s.counters.Late) }

func (s *statsRecorder) answered(outcome Outcome) {
	switch outcome {
	case OutcomeRanked:
		s.count(&s.counters.Ranked)
	case OutcomePartial:
		s.count(&s.counters.Partial)
	case OutcomeFirstStage:
		s.count(&s.counters.FirstStage)
	}
}

func (s *statsRecorder) fellBack(reason Reason) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.counters.FirstStage++
	s.counters.Fallbacks[reason]++
}

func (s *statsRecorder) count(counter *uint64) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	*counter++
}

func (s *statsRecorder) snapshot() Stats {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	counters := s.counters
	counters.Fallbacks = maps.Clone(counters.Fallbacks)
	return counters
}
