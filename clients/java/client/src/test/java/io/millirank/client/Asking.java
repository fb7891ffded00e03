package io.millirank.client;

import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;

/** What the tests have in common. */
final class Asking {
  static final List<String> DOCUMENTS = List.of("alpha", "beta", "gamma", "delta");

  private Asking() {}

  /** The future's value, or the exception that it completed with, as a synchronous call would throw it. */
  static <T> T join(CompletableFuture<T> future) {
    try {
      return future.join();
    } catch (CompletionException error) {
      if (error.getCause() instanceof RuntimeException cause) {
        throw cause;
      }
      throw error;
    }
  }
}
