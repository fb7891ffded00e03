package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"

	"github.com/blevesearch/bleve/v2"
	"github.com/blevesearch/bleve/v2/analysis/lang/en"
	"github.com/blevesearch/bleve/v2/index/scorch"
	bleveindex "github.com/blevesearch/bleve_index_api"
)

// Page is one page of documentation.
type Page struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

// Hit is a page that the first stage found, with its BM25 score.
type Hit struct {
	Page
	BM25 float64
}

// Index is the first stage: Bleve's scorch index, in memory, scoring by BM25.
type Index struct {
	pages map[string]Page
	index bleve.Index
}

const batchSize = 500

// NewIndex indexes pages that come as JSON lines ({"id", "text"}), as `millirank collection` writes them.
func NewIndex(lines io.Reader) (*Index, error) {
	mapping := bleve.NewIndexMapping()
	mapping.DefaultAnalyzer = en.AnalyzerName
	mapping.ScoringModel = bleveindex.BM25Scoring
	index, err := bleve.NewUsing("", mapping, scorch.Name, scorch.Name, nil)
	if err != nil {
		return nil, err
	}
	found := &Index{pages: map[string]Page{}, index: index}
	return found, found.add(lines)
}

func (x *Index) add(lines io.Reader) error {
	decoder := json.NewDecoder(bufio.NewReader(lines))
	batch := x.index.NewBatch()
	for decoder.More() {
		var page Page
		if err := decoder.Decode(&page); err != nil {
			return fmt.Errorf("page %d: %w", len(x.pages)+1, err)
		}
		x.pages[page.ID] = page
		if err := batch.Index(page.ID, page); err != nil {
			return err
		}
		if batch.Size() >= batchSize {
			if err := x.index.Batch(batch); err != nil {
				return err
			}
			batch = x.index.NewBatch()
		}
	}
	return x.index.Batch(batch)
}

// Search is the best pages for the query, best first.
func (x *Index) Search(query string, size int) ([]Hit, error) {
	match := bleve.NewMatchQuery(query)
	match.SetField("text")
	found, err := x.index.Search(bleve.NewSearchRequestOptions(match, size, 0, false))
	if err != nil {
		return nil, err
	}
	hits := make([]Hit, len(found.Hits))
	for i, hit := range found.Hits {
		hits[i] = Hit{Page: x.pages[hit.ID], BM25: hit.Score}
	}
	return hits, nil
}

// Size is how many pages are indexed.
func (x *Index) Size() int { return len(x.pages) }

// Close frees the index.
func (x *Index) Close() error { return x.index.Close() }
