package io.millirank.client;

/**
 * Where a document's token vectors lie: in an index that {@code millirank index} has built.
 *
 * @param collection the collection's name in the sidecar's configuration
 * @param id the document's id in that collection
 */
public record IndexedRef(String collection, String id) {}
