package io.millirank.client;

import static org.junit.jupiter.api.Assumptions.abort;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** {@code millirank serve} of this checkout, in a process of its own; killed at the latest by {@link #close}. */
public final class SidecarProcess implements AutoCloseable {
  /** Settings without models: what is tested with these is the process, and it is up in no time. */
  public static final Map<String, String> NO_MODELS =
      Map.of(
          "MILLIRANK_RERANKERS__MINILM_L6__ENABLED", "false",
          "MILLIRANK_RERANKERS__TINY_CROSS_ENCODER__ENABLED", "false");

  // Starting takes about 2 s of CPU; a machine that is shared may need many times that. Only a hang reaches this.
  private static final long PATIENCE_SECONDS = 60;
  private static final Path PYTHON = Repository.ROOT.resolve(".venv/bin/python");

  private final Process process;
  private final CompletableFuture<List<String>> addresses = new CompletableFuture<>();
  private final List<String> output = new ArrayList<>();

  private SidecarProcess(Process process) {
    this.process = process;
  }

  /** Starts one on a free loopback port; {@code settings} are environment variables. Skips the test without .venv. */
  public static SidecarProcess start(Map<String, String> settings) throws IOException {
    if (!Files.isExecutable(PYTHON)) {
      String message = "SKIPPED: Java tests against a real sidecar: " + PYTHON + " is missing; run: make set-up-dev";
      System.err.println(message);
      abort(message);
    }
    ProcessBuilder builder =
        new ProcessBuilder(PYTHON.toString(), "-m", "sidecar", "serve")
            .directory(Repository.ROOT.toFile())
            .redirectOutput(ProcessBuilder.Redirect.DISCARD);
    Map<String, String> environment = builder.environment();
    environment.keySet().removeIf(name -> name.startsWith("MILLIRANK_") || name.startsWith("OTEL_"));
    environment.put("PYTHONPATH", Repository.ROOT.resolve("clients/python/src").toString());
    environment.put("MILLIRANK_LISTEN__TCP", "127.0.0.1:0");
    environment.putAll(settings);
    SidecarProcess sidecar = new SidecarProcess(builder.start());
    Thread reader = new Thread(sidecar::read, "sidecar-output");
    reader.setDaemon(true);
    reader.start();
    return sidecar;
  }

  /** Where it serves, TCP first; waits until it does. */
  public List<String> addresses() throws InterruptedException {
    try {
      return addresses.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
    } catch (ExecutionException | TimeoutException error) {
      synchronized (output) {
        throw new AssertionError("the sidecar does not serve:\n" + String.join("\n", output), error);
      }
    }
  }

  /** SIGSTOP: stops the process where it is; its connections stay open. */
  public void freeze() throws IOException, InterruptedException {
    signal("-STOP");
  }

  /** SIGCONT. */
  public void thaw() throws IOException, InterruptedException {
    signal("-CONT");
  }

  /** SIGKILL. */
  public void kill() {
    process.destroyForcibly();
  }

  @Override
  public void close() throws InterruptedException {
    process.destroyForcibly();
    process.waitFor(PATIENCE_SECONDS, TimeUnit.SECONDS);
  }

  private void signal(String name) throws IOException, InterruptedException {
    int code = new ProcessBuilder("kill", name, Long.toString(process.pid())).inheritIO().start().waitFor();
    if (code != 0) {
      throw new IOException("kill " + name + " ended with " + code);
    }
  }

  private void read() {
    try (BufferedReader lines = process.errorReader()) {
      String line;
      while ((line = lines.readLine()) != null) {
        synchronized (output) {
          output.add(line);
        }
        if (line.startsWith("{")) {
          JsonObject entry = JsonParser.parseString(line).getAsJsonObject();
          if (entry.get("message").getAsString().equals("serving")) {
            addresses.complete(
                entry.getAsJsonArray("addresses").asList().stream().map(each -> each.getAsString()).toList());
          }
        }
      }
    } catch (IOException ended) {
      // Killed while it wrote.
    }
    addresses.completeExceptionally(new IOException("the process ended"));
  }
}
