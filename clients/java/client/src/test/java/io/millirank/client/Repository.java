package io.millirank.client;

import java.nio.file.Files;
import java.nio.file.Path;

/** The checkout that these tests belong to. */
final class Repository {
  static final Path ROOT = root();

  private Repository() {}

  private static Path root() {
    for (Path folder = Path.of("").toAbsolutePath(); folder != null; folder = folder.getParent()) {
      if (Files.isRegularFile(folder.resolve("proto/millirank/v1/rerank_service.proto"))) {
        return folder;
      }
    }
    throw new IllegalStateException("these tests run in a checkout of Millirank only");
  }
}
