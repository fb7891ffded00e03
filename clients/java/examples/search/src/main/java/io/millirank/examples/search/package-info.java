/** A search service on Apache Lucene that reranks within 50 ms. */
@NullMarked
package io.millirank.examples.search;

import org.jspecify.annotations.NullMarked;
