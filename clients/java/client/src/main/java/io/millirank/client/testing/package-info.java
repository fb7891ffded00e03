/** A sidecar for tests of code that reranks: a real gRPC server on loopback that answers as told. */
@NullMarked
package io.millirank.client.testing;

import org.jspecify.annotations.NullMarked;
