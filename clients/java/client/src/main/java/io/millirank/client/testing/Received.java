package io.millirank.client.testing;

import io.grpc.Metadata;
import io.millirank.v1.RerankRequest;
import java.time.Duration;
import org.jspecify.annotations.Nullable;

/**
 * A request that reached a {@link FakeSidecar}.
 *
 * @param request the message; of an ExplainRoute, the request in it
 * @param headers the metadata that came with it
 * @param deadlineLeft what was left of the gRPC deadline when it came; null where it had none
 */
public record Received(RerankRequest request, Metadata headers, @Nullable Duration deadlineLeft) {}
