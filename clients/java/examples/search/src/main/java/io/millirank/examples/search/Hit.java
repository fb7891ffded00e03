package io.millirank.examples.search;

/**
 * One document that Lucene found. A class of this service: Millirank never sees more of it than is read for it.
 *
 * @param id the documented name, such as {@code heapq.nlargest}
 * @param text the documentation
 * @param bm25 Lucene's score
 */
record Hit(String id, String text, float bm25) {}
