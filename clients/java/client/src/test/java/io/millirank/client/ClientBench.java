package io.millirank.client;

import com.google.gson.Gson;
import io.grpc.CallOptions;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.stub.ClientCalls;
import io.millirank.v1.Budget;
import io.millirank.v1.Document;
import io.millirank.v1.RerankRequest;
import io.millirank.v1.RerankResponse;
import io.millirank.v1.Routing;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;

/**
 * Measures what the client adds to a bare stub call: the same request by both in turn, to one sidecar, in one process.
 * {@code make bench-clients} runs it.
 *
 * <p>Arguments: TARGET ROUNDS CALLS WARM-UP. It prints {@code {"Java": {"stub": [[ms, ...], ...], "client": ...}}}: what
 * each of CALLS calls of each of ROUNDS rounds took.
 */
final class ClientBench {
  private static final String QUERY = "how to open a file for reading and writing";
  private static final Duration BUDGET = Duration.ofSeconds(20); // nothing is to run into it
  private static final List<String> TEXTS =
      IntStream.range(0, 100)
          .mapToObj(i -> "Candidate " + i + " " + "says what a passage of a manual says about files. ".repeat(20))
          .map(text -> text.substring(0, 600))
          .toList();

  private ClientBench() {}

  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 4) {
      throw new IllegalArgumentException("arguments: TARGET ROUNDS CALLS WARM-UP");
    }
    String target = arguments[0];
    int rounds = Integer.parseInt(arguments[1]);
    int calls = Integer.parseInt(arguments[2]);
    int warmUp = Integer.parseInt(arguments[3]);
    ManagedChannelBuilder<?> builder = Grpc.newChannelBuilder(target, InsecureChannelCredentials.create());
    if (target.startsWith("unix:")) {
      builder.overrideAuthority("localhost"); // the server refuses a path
    }
    ManagedChannel channel = builder.build();
    try (Millirank client = Millirank.builder(target).build()) {
      Runnable byStub = () -> callStub(channel);
      Runnable byClient = () -> callClient(client);
      List<List<Double>> stub = new ArrayList<>();
      List<List<Double>> ours = new ArrayList<>();
      inTurn(warmUp, byStub, byClient, new ArrayList<>(), new ArrayList<>()); // the JVM compiles meanwhile
      for (int round = 0; round < rounds; round++) {
        stub.add(new ArrayList<>());
        ours.add(new ArrayList<>());
        inTurn(calls, byStub, byClient, stub.get(round), ours.get(round));
      }
      System.out.println(new Gson().toJson(Map.of("Java", Map.of("stub", stub, "client", ours))));
    } finally {
      channel.shutdownNow();
    }
  }

  /** What each call took, in ms; who goes first changes with every pair. */
  private static void inTurn(
      int calls, Runnable byStub, Runnable byClient, List<Double> stubMs, List<Double> clientMs) {
    for (int i = 0; i < calls; i++) {
      for (int turn = 0; turn < 2; turn++) {
        boolean ours = (i + turn) % 2 == 1;
        long started = System.nanoTime();
        (ours ? byClient : byStub).run();
        (ours ? clientMs : stubMs).add((System.nanoTime() - started) / 1e6);
      }
    }
  }

  /** What one would write without the client: make the message, call with a deadline, hold the answer. */
  private static void callStub(ManagedChannel channel) {
    RerankRequest.Builder request =
        RerankRequest.newBuilder()
            .setQuery(QUERY)
            .setBudget(
                Budget.newBuilder()
                    .setLatency(com.google.protobuf.Duration.newBuilder().setSeconds(BUDGET.toSeconds())))
            .setRouting(Routing.newBuilder().setStrategy(io.millirank.v1.Strategy.STRATEGY_NONE));
    for (String text : TEXTS) {
      request.addDocuments(Document.newBuilder().setText(text));
    }
    CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(BUDGET.toNanos(), TimeUnit.NANOSECONDS);
    RerankResponse response = ClientCalls.blockingUnaryCall(channel, Methods.RERANK, options, request.build());
    if (response.getResultsCount() != TEXTS.size()) {
      throw new IllegalStateException(response.toString());
    }
  }

  private static void callClient(Millirank client) {
    Ranking<String> ranking =
        client.rerank(Request.builder(QUERY, TEXTS).budget(BUDGET).strategy(Strategy.NONE).build());
    if (ranking.outcome() != Outcome.RANKED) {
      throw new IllegalStateException(ranking.toString());
    }
  }
}
